"""The calibration pipeline, which turns a model and a calibration set into a guard bundle."""
