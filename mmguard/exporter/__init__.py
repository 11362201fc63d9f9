"""Offline, onnx: read the user's model, find its activations, insert Min, check the result."""
