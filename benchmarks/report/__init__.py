"""Turn the JSONs of results into Markdown and plots."""
