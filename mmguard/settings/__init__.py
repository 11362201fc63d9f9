"""Every constant of a calibration."""
