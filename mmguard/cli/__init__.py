"""The `mmguard` command: one file a command."""
