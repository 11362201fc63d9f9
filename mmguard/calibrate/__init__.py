"""Offline, PyTorch: the clean set, the differentiable graph, the bounds and the margins that the audit judges."""
