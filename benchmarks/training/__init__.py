"""Training of the networks under attack."""
