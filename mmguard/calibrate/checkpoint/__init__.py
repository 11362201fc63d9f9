"""What an interrupted calibration resumes from."""
