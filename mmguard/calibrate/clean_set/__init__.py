"""Read the calibration set, assign its labels to the model's outputs, and find the box of feasible inputs."""
