"""Renders the page: one file without scripts, whose policy lets a browser load nothing at all."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmguard.bundle.diagnostics import JUDGED
from mmguard.bundle.manifest import Manifest
from mmguard.detection.audit import LEVEL
from mmguard.report import text
from mmguard.report.evidence import Evidence, false_positives
from mmguard.report.facts import STATISTICS, facts
from mmguard.report.limits import general_limits, own_limits
from mmguard.report.margins import read_margins, read_verdict
from mmguard.report.plots import HEIGHT, WIDTH, histogram, quantile_plot
from mmguard.report.steps import alerts, next_steps

FILTERS = ("percent", "level", "number", "p_value", "count", "thousands")


def render(manifest: Manifest, evidence: Evidence) -> str:
    """The page about one calibration, as HTML. Equal arguments give equal text.

    Args:
        manifest: its `files` are not looked at.
        evidence: what it does not hold.
    """
    style = files("mmguard.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    null, verdict, rate = manifest.null, read_verdict(manifest), false_positives(manifest, evidence)
    margins = read_margins(manifest, verdict)
    plots = None
    if rate is not None and evidence.statistic is not None:
        plots = (histogram(evidence.statistic, rate.line), quantile_plot(evidence.statistic, rate.line))
    sites = {site.value: site for site in manifest.sites}
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            manifest=manifest,
            figures=manifest.calibration,
            null=null,
            statistics=STATISTICS,
            facts=facts(manifest, evidence),
            verdict=verdict,
            alpha=LEVEL,
            judged=JUDGED,
            margins=margins,
            steps=next_steps(manifest, verdict, rate),
            alerts=alerts(manifest, rate),
            rate=rate,
            plots=plots,
            sites=[(sites[clipped.value], clipped) for clipped in evidence.clipping],
            limits=(*own_limits(manifest, margins, rate), *general_limits(manifest)),
            plot_size=(WIDTH, HEIGHT),
            style=Markup(style),  # ours, and hashed as it stands
            style_hash=b64encode(sha256(style.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mmguard.report"),
        autoescape=True,  # names of models, classes and values are the attacker's
        finalize=text.shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(text, name) for name in FILTERS})
    return environment
