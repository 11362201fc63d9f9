"""The clean set D: read, labelled and bounded."""
