"""Names of the files in a bundle's folder."""

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
BOUNDS = "bounds.safetensors"
PROBES = "probes.safetensors"
REPORT = "report.html"

UNLISTED = (MANIFEST, PROVENANCE)
"""The two files of a bundle that are not listed in the manifest."""
