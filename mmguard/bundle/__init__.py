"""The guard bundle: the folder that calibration writes and the guard reads. See docs/bundle.md."""
