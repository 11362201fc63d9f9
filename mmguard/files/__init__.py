"""Files that others may have put there, and files that are written atomically."""
