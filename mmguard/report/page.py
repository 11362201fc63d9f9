"""Renders the page: a single HTML file without scripts.

The page's content security policy forbids the browser to load anything else.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmguard.bundle.diagnostics import JUDGED
from mmguard.bundle.manifest import Manifest
from mmguard.detection.audit import LEVEL
from mmguard.report import formatting
from mmguard.report.evidence import Evidence
from mmguard.report.plots import HEIGHT, WIDTH, histogram, quantile_plot
from mmguard.report.sections.calibration_facts import STATISTICS, calibration_facts
from mmguard.report.sections.false_positives import false_positives
from mmguard.report.sections.limits import general_limits, own_limits
from mmguard.report.sections.maximum_margins import read_margins, read_verdict
from mmguard.report.sections.next_steps import alerts, next_steps

FILTERS = ("percent", "level", "number", "p_value", "count", "thousands")


def render(manifest: Manifest, evidence: Evidence) -> str:
    """Render the calibration report of a bundle.

    Args:
        manifest: the bundle's manifest; its `files` are not used.
        evidence: what the page shows in addition to the manifest.

    Returns:
        The HTML. The same arguments always produce the same text.
    """
    style = files("mmguard.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    verdict, rate = read_verdict(manifest), false_positives(manifest, evidence)
    margins = read_margins(manifest, verdict)
    plots = None
    if rate is not None and evidence.scores is not None:
        plots = (histogram(evidence.scores, rate.threshold), quantile_plot(evidence.scores, rate.threshold))
    sites = {site.value: site for site in manifest.sites}
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            manifest=manifest,
            figures=manifest.calibration,
            null=manifest.null,
            statistics=STATISTICS,
            facts=calibration_facts(manifest, evidence),
            verdict=verdict,
            alpha=LEVEL,
            judged=JUDGED,
            margins=margins,
            steps=next_steps(manifest, verdict, rate),
            alerts=alerts(rate),
            rate=rate,
            plots=plots,
            sites=[(sites[clipped.value], clipped) for clipped in evidence.clipping],
            limits=(*own_limits(manifest, margins, rate), *general_limits(manifest)),
            plot_size=(WIDTH, HEIGHT),
            style=Markup(style),  # a trusted file; escaping would change its hash
            style_hash=b64encode(sha256(style.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mmguard.report"),
        autoescape=True,  # an attacker may choose the names of models, classes and values
        finalize=formatting.sanitised,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(formatting, name) for name in FILTERS})
    return environment
