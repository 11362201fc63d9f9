"""`python -m mmguard`: the same as the `mmguard` command."""

from mmguard.cli.main import main

main()
