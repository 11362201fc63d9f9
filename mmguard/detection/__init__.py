"""The MMDF test and the audit. Needs only NumPy and SciPy."""
