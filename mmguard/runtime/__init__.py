"""Runs models in ONNX Runtime: sessions, batches of any size, input dtypes, and the comparison of results."""
