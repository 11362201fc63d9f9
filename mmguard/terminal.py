"""What a person sees: a progress bar on a terminal, plain lines anywhere else. All of it goes to standard error."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mmguard.audit import Audit
from mmguard.bundle import Bundle
from mmguard.errors import MmguardError
from mmguard.manifest import Manifest, NullSpec
from mmguard.visible import visible

if TYPE_CHECKING:
    from mmguard.calibrate import Round
    from mmguard.guard.scan import Summary
    from mmguard.inspection import Inspection

PLAIN_EVERY = 10
"""Rounds between two plain lines."""

AUDITED = 10
"""Classes that an audit shows."""

NAMED = 5
"""Files that a scan's summary names."""

console = Console(stderr=True, highlight=False)


class ConsoleHandler(logging.Handler):
    """Log records as lines beside the progress bar: mmguard's own, and warnings of others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, never wrapped."""
        if record.name.startswith("mmguard") or record.levelno >= logging.WARNING:
            console.print(self.format(record), markup=False, soft_wrap=True)


def describe(report: "Round") -> str:
    """One round in words: both terms of the objective, λ and the agreement on D."""
    return (
        f"change {report.fit_loss:.3f}, penalty {report.penalty:.2f} × λ {report.margin_weight:.3g}, "
        f"agreement {report.agreement:.1%}"
    )


class RemainingColumn(ProgressColumn):
    """Counts down what the last round said that remains: rich's own estimate forgets rounds older than 30 s."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Hours, minutes and seconds, or dashes before the first round."""
        if (ends := task.fields.get("ends")) is None:
            return Text("-:--:--", style="progress.remaining")
        left = timedelta(seconds=max(0, round(ends - time.monotonic())))
        return Text(str(left), style="progress.remaining")


@contextmanager
def round_progress() -> Iterator[Callable[["Round"], None]]:
    """A callback that shows rounds: a bar with the remaining time on a terminal, every tenth as a line elsewhere."""
    if not console.is_terminal:
        yield _plain()
        return
    columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(), RemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("searching margins", total=None)

        def show(report: "Round") -> None:
            ends = time.monotonic() + report.remaining
            progress.update(task, completed=report.number, total=report.rounds, description=describe(report), ends=ends)

        yield show


def _plain() -> Callable[["Round"], None]:
    """Shows the first round that is run, every tenth and the last."""
    first = True

    def show(report: "Round") -> None:
        nonlocal first
        if first or report.number % PLAIN_EVERY == 0 or report.number == report.rounds:
            remaining = f"about {report.remaining:.0f} s remain"
            console.print(f"round {report.number}/{report.rounds}: {describe(report)}; {remaining}", soft_wrap=True)
        first = False

    return show


@contextmanager
def say_how_to_go_on(on_round: Callable[["Round"], None], checkpoint: Path) -> Iterator[Callable[["Round"], None]]:
    """Hands rounds on; where anything but a refusal ends them early and the checkpoint is there, says what goes on."""
    last = ""

    def remember(report: "Round") -> None:
        nonlocal last
        last = f" at round {report.number} of {report.rounds}"
        on_round(report)

    try:
        yield remember
    except MmguardError:
        raise
    except BaseException as error:
        if checkpoint.exists():
            what = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "stopped"
            console.print(f"{what}{last}; to go on, run the same command with --resume", markup=False, soft_wrap=True)
        raise


def _lines(parts: Iterable[str]) -> str:
    """Lines of which none, by a name that a file of others chose, can move the cursor or hide the next."""
    return "\n".join(map(visible, parts))


def describe_bundle(bundle: Bundle) -> str:
    """What a bundle holds, in a dozen lines."""
    manifest = bundle.manifest
    figures, spec = manifest.calibration, manifest.input
    shape = ", ".join("any" if size is None else str(size) for size in spec.shape[1:])
    against = "the labels" if figures.labelled else "the original's decisions"
    ended = "converged" if figures.converged else "all rounds run"
    scale = next(iter(figures.original_margins))
    margins = zip(manifest.classes, figures.original_margins[scale], figures.clipped_margins[scale], strict=True)
    widest = sorted(margins, key=lambda row: -row[1])[:3]
    return _lines(
        (
            f"bundle      {bundle.path}",
            f"sha256      {bundle.digest()} (of the manifest, which holds those of all other files)",
            f"model       {manifest.name}: input {spec.name} (N, {shape}){_batches(spec.shape)}, "
            f"{len(manifest.classes)} classes",
            f"clip sites  {len(manifest.sites)} activations, {sum(site.channels for site in manifest.sites)} bounds",
            f"clean set   {figures.n} inputs; preset {manifest.preset}, {figures.rounds} rounds ({ended})"
            + _folded(manifest),
            f"accuracy    {figures.original_accuracy:.1%} original, {figures.clipped_accuracy:.1%} clipped, "
            f"against {against}; agreement {figures.agreement:.1%}",
            *_describe_test(manifest.null, figures.flagged_share),
            "margins     "
            + "; ".join(f"{name} {before:.1f} → {after:.1f}" for name, before, after in widest)
            + f" (scale {scale}, largest classes, original → clipped)",
        )
    )


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
            f"p {audit.p_value:.2g} that a class stands out so far at any scale without a backdoor: {verdict}",
        )
    )


def describe_scan(summary: "Summary") -> str:
    """What a scan counted, and what chance would give, in one line."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items()) or "none"
    counts = [
        f"{summary.inputs} inputs",
        f"{summary.flagged} flagged ({reasons})",
        f"{summary.corrected} corrected",
        f"{summary.unreadable} unreadable",
        f"{summary.untested} untested",
    ]
    if summary.skipped:
        named = ", ".join(map(visible, summary.skipped[:NAMED])) + (", ..." if len(summary.skipped) > NAMED else "")
        counts.append(f"{len(summary.skipped)} passed over ({named})")
    if summary.first_frames:
        counts.append(f"{summary.first_frames} of several frames, of which the first was judged")
    verdict = "this bundle has no test, so nothing is flagged"
    if summary.limit is not None:
        verdict = f"{summary.improbable} with p ≤ θ, of clean inputs at most {summary.limit} (99.9 %)"
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
        f"test        p ≤ {null.theta} flags{disagreement}; {flagged_share:.1%} of the clean set flagged",
    )
