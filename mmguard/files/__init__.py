"""Read files from untrusted folders, and write files and folders atomically."""
