"""The MMDF test and the audit. NumPy and SciPy only."""
