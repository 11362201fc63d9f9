"""Backdoored networks whose inputs are not images: tables of features, and time series."""
