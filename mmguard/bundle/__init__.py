"""The guard bundle: the folder that passes from calibration to the guard. See docs/bundle.md."""
