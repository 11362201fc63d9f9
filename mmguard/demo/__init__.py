"""`mmguard demo`: a backdoored classifier of handwritten digits, guarded by the commands that a user would run."""

from mmguard.demo.story import run

__all__ = ["run"]
