"""Turn files and in-memory data into inputs of a model, and check batches before they reach a network."""
