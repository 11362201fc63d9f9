"""Format numbers, lists and untrusted text for people to read."""
