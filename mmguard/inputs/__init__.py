"""From files and arrays to inputs of a model."""
