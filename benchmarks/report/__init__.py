"""From the JSONs of the results to Markdown and plots."""
