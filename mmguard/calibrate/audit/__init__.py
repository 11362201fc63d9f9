"""The audit's search for the largest margin of each class."""
