"""The page about a bundle that a security reviewer reads: `report.html`. Needs jinja2, of the extra `calibrate`."""

from mmguard.report.evidence import Evidence, scores
from mmguard.report.page import render

__all__ = ["Evidence", "render", "scores"]
