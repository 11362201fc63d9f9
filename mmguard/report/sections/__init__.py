"""Computes the text and figures of the page's sections. Each module is named after the heading of its section."""
