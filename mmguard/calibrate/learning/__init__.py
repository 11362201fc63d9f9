"""Learning the bounds (paper, section 3.1)."""
