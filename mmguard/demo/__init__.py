"""Runs `mmguard demo`, which guards a backdoored classifier of handwritten digits with ordinary mmguard commands."""

from mmguard.demo.walkthrough import run

__all__ = ["run"]
