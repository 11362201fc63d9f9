"""Offline calibration in PyTorch: read the calibration set, learn the bounds, and run the audit's margin search."""
