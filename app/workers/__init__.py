"""Worker processes: both halves, and everything that crosses between them."""
