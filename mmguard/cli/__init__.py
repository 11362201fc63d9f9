"""The `mmguard` command, with one module for each subcommand."""
