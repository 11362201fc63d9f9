"""The checkpoint that an interrupted calibration resumes from."""
