"""Accepted work that outlives the server: kept in a database, leased, run, its result kept."""
