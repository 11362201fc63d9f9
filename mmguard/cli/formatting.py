"""What a person sees of bundles, models and audits, in lines, and the console that messages go to."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import Manifest, NullSpec
from mmguard.detection.audit import LEVEL, Audit
from mmguard.guard.scan import Summary
from mmguard.text.format import number, percent, some
from mmguard.text.sanitize import visible

if TYPE_CHECKING:
    from mmguard.pipeline.inspect import Inspection

AUDITED = 10
"""Classes that an audit shows."""

console = Console(stderr=True, highlight=False)


class ConsoleHandler(logging.Handler):
    """Log records as lines beside the progress bar: mmguard's own, and warnings of others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, never wrapped."""
        if record.name.startswith("mmguard") or record.levelno >= logging.WARNING:
            console.print(self.format(record), markup=False, soft_wrap=True)


def _lines(parts: Iterable[str]) -> str:
    """Lines none of which can move the cursor or hide the next by a name that somebody else chose."""
    return "\n".join(map(visible, parts))


def describe_bundle(bundle: Bundle) -> str:
    """What a bundle holds, in a dozen lines."""
    manifest = bundle.manifest
    figures, spec = manifest.calibration, manifest.input
    shape = ", ".join("any" if size is None else str(size) for size in spec.shape[1:])
    accuracy = "unknown, since the clean set has no labels"
    if figures.labelled:
        accuracy = f"{percent(figures.original_accuracy)} original, {percent(figures.clipped_accuracy)} clipped"
    ended = "converged" if figures.converged else "all rounds run"
    return _lines(
        (
            f"bundle      {bundle.path}",
            f"sha256      {bundle.digest()} (of the manifest, which holds those of all other files)",
            f"model       {manifest.name}: input {spec.name} (N, {shape}){_batches(spec.shape)}, "
            f"{len(manifest.classes)} classes",
            f"clip sites  {len(manifest.sites)} activations, {sum(site.channels for site in manifest.sites)} bounds",
            f"clean set   {figures.n} inputs; preset {manifest.preset}, {figures.rounds} rounds ({ended})"
            + _folded(manifest),
            f"accuracy    {accuracy}; both networks decide the same on {percent(figures.agreement)}",
            *_describe_test(manifest.null, figures.flagged_share),
            f"margins     {_describe_margins(manifest)}",
        )
    )


def _describe_margins(manifest: Manifest) -> str:
    """The three classes with the largest margins."""
    figures = manifest.calibration
    if not figures.original_margins:
        return "not searched (--no-audit)"
    scale = next(iter(figures.original_margins))
    margins = zip(manifest.classes, figures.original_margins[scale], figures.clipped_margins[scale], strict=True)
    widest = sorted(margins, key=lambda row: -row[1])[:3]
    said = "; ".join(f"{name} {number(before)} → {number(after)}" for name, before, after in widest)
    return f"{said} (scale {scale}, largest classes, original → clipped)"


def _folded(manifest: Manifest) -> str:
    """How often the rounds were run again, without a part of the clean set."""
    folds = manifest.settings.get("folds", 1)
    return f", and as many without each of {folds} parts" if isinstance(folds, int) and folds > 1 else ""


def describe_model(found: "Inspection") -> str:
    """What calibration would make of a model: where its ends are, what is clipped, what is not and why."""
    shape = ", ".join("any" if size is None else str(size) for size in found.input_shape[1:])
    channels = sum(site.channels or 0 for site in found.sites)
    some = "" if all(site.channels for site in found.sites) else " or more"
    return _lines(
        (
            f"model       {found.model}: opset {found.opset}, {found.nodes} nodes",
            f"input       {found.input} (N, {shape}) {found.input_dtype}{_batches(found.input_shape)}",
            f"logits      {found.logits}",
            f"outputs     {found.output.describe()}",
            f"clip sites  {len(found.sites)} activations, {channels}{some} bounds",
            *_table(
                ("value", "operator", "axis", "channels"),
                [(site.value, site.operator, _axis(site.axis), str(site.channels or "?")) for site in found.sites],
            ),
            f"unclipped   {len(found.left_out)} activations",
            *_table(
                ("value", "operator", "why"), [(each.value, each.operator, each.reason) for each in found.left_out]
            ),
            *[f"obstacle    {line}" for obstacle in found.obstacles for line in obstacle.splitlines()],
            f"verdict     {'cannot' if found.obstacles else 'can'} be calibrated",
        )
    )


def _batches(shape: Sequence[int | None]) -> str:
    """Of which size they are, where the model takes only one; others are split and filled up."""
    return "" if shape[0] is None else f", in batches of {shape[0]}"


def _axis(axis: int) -> str:
    return "last" if axis == -1 else str(axis)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in columns, below their head; nothing where there are none."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [f"  {line.rstrip()}" for line in lines] if rows else []


def describe_audit(audit: Audit, classes: Sequence[str]) -> str:
    """The verdict, the p-value of every scale, and the margins of the one that the verdict rests on, largest first."""
    scale = audit.scales[audit.scale]
    rows = sorted(zip(classes, scale.margins.tolist(), strict=True), key=lambda row: -row[1])
    shown = [f"  {margin:8.1f}  {name}" for name, margin in rows[:AUDITED]]
    hidden = len(rows) - len(shown)
    verdict = f"backdoored, target class {classes[audit.suspect]}" if audit.backdoored else "no sign of a backdoor"
    return _lines(
        (
            f"scale {audit.scale}: mean margin that the search for maxima reached, by class, in logits:",
            *shown,
            *([f"  and {hidden} smaller ones"] if hidden else []),
            *_left_out(audit, classes),
            "p by scale: " + ", ".join(f"{name} {each.p_value:.2g}" for name, each in audit.scales.items()),
            f"{verdict}: p {audit.p_value:.2g} over all scales, where p ≤ {LEVEL} is taken for a backdoor",
        )
    )


def describe_scan(summary: "Summary") -> str:
    """What a scan counted, and what chance would give, in one line."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
    counts = [
        f"{summary.inputs} input{'s' * (summary.inputs != 1)}",
        f"{summary.flagged} flagged" + (f" ({reasons})" if reasons else ""),
        f"{summary.corrected} corrected",
        f"{summary.unreadable} unreadable",
        f"{summary.untested} untested",
    ]
    if summary.skipped:
        counts.append(f"{len(summary.skipped)} passed over ({visible(some(summary.skipped))})")
    if summary.first_frames:
        counts.append(f"{summary.first_frames} of several frames, of which the first was judged")
    verdict = "this bundle has no test, so nothing is flagged"
    if summary.limit is not None:
        verdict = f"{summary.improbable} with p ≤ θ, clean inputs give more than {summary.limit} once in 1000 scans"
    return f"{', '.join(counts)}; {verdict}"


def _left_out(audit: Audit, classes: Sequence[str]) -> list[str]:
    return [
        f"left out of scale {name}, since their margins are far below the others': "
        + ", ".join(classes[label] for label in each.left_out)
        for name, each in audit.scales.items()
        if each.left_out
    ]


def _describe_test(null: NullSpec | None, flagged_share: float) -> tuple[str, ...]:
    if null is None:
        return ("test        none: the clipped network is a corrected model, and answers",)
    if null.disagreement_theta != null.theta:
        disagreement = f"; a disagreement flags at p ≤ {null.disagreement_theta}"
    else:
        disagreement = ""
    return (
        f"null        {null.kind}, n {null.n}, of " + ", ".join(criterion.statistic for criterion in null.criteria),
        f"test        p ≤ {null.theta} flags{disagreement}; {percent(flagged_share)} of the clean set flagged",
    )
