"""What must outlive the process: one database, and the schemas in it."""
