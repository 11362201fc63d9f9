"""Renders `report.html`, the page in a bundle for security reviewers. Needs jinja2 from the extra `calibrate`."""

from mmguard.report.evidence import Evidence, normal_scores
from mmguard.report.page import render

__all__ = ["Evidence", "normal_scores", "render"]
