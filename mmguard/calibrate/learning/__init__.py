"""Learn the bounds: margin search, descent, and cross-fitting."""
