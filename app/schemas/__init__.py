"""Wire shapes of the HTTP interfaces. Pydantic stops here."""
