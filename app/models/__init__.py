"""What exists, what is loaded, and where the files come from."""
