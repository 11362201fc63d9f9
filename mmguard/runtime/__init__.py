"""ONNX Runtime: sessions, and batches of any size."""
