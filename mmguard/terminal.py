"""What a person sees: a progress bar on a terminal, plain lines anywhere else. All of it goes to standard error."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mmguard.audit import Audit
from mmguard.bundle import Bundle
from mmguard.manifest import NullSpec

if TYPE_CHECKING:
    from mmguard.calibrate import Round

PLAIN_EVERY = 10
"""Rounds between two plain lines."""

AUDITED = 10
"""Classes that an audit shows."""

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


@contextmanager
def round_progress() -> Iterator[Callable[["Round"], None]]:
    """A callback that shows rounds: a bar with the remaining time on a terminal, every tenth as a line elsewhere."""
    if not console.is_terminal:
        yield _plain
        return
    columns = (TextColumn("round {task.completed:.0f}/{task.total:.0f}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("searching margins", total=None)

        def show(report: "Round") -> None:
            progress.update(task, completed=report.number, total=report.rounds, description=describe(report))

        yield show


def _plain(report: "Round") -> None:
    if report.number % PLAIN_EVERY == 0 or report.number in (1, report.rounds):
        remaining = f"about {report.remaining:.0f} s remain"
        console.print(f"round {report.number}/{report.rounds}: {describe(report)}; {remaining}", soft_wrap=True)


def describe_bundle(bundle: Bundle) -> str:
    """What a bundle holds, in a dozen lines."""
    manifest = bundle.manifest
    figures, spec = manifest.calibration, manifest.input
    shape = ", ".join("any" if size is None else str(size) for size in spec.shape[1:])
    against = "the labels" if figures.labelled else "the original's decisions"
    ended = "converged" if figures.converged else "all rounds run"
    margins = zip(manifest.classes, figures.original_margins, figures.clipped_margins, strict=True)
    widest = sorted(margins, key=lambda row: -row[1])[:3]
    return "\n".join(
        (
            f"bundle      {bundle.path}",
            f"sha256      {bundle.digest()} (of the manifest, which holds those of all other files)",
            f"model       {manifest.name}: input {spec.name} (N, {shape}), {len(manifest.classes)} classes",
            f"clip sites  {len(manifest.sites)} activations, {sum(site.channels for site in manifest.sites)} bounds",
            f"clean set   {figures.n} inputs; {figures.rounds} rounds ({ended}), preset {manifest.preset}",
            f"accuracy    {figures.original_accuracy:.1%} original, {figures.clipped_accuracy:.1%} clipped, "
            f"against {against}; agreement {figures.agreement:.1%}",
            *_describe_test(manifest.null, figures.flagged_share),
            "margins     "
            + "; ".join(f"{name} {before:.1f} → {after:.1f}" for name, before, after in widest)
            + " (largest three classes, original → clipped)",
        )
    )


def describe_audit(audit: Audit, classes: Sequence[str]) -> str:
    """The verdict, and the margins that it rests on, the largest first."""
    rows = sorted(zip(classes, audit.margins.tolist(), strict=True), key=lambda row: -row[1])
    shown = [f"  {margin:8.1f}  {name}" for name, margin in rows[:AUDITED]]
    left_out = len(rows) - len(shown)
    verdict = f"backdoored, target class {classes[audit.suspect]}" if audit.backdoored else "no sign of a backdoor"
    return "\n".join(
        (
            "mean margin that the search for maxima reached, by class, in logits:",
            *shown,
            *([f"  and {left_out} smaller ones"] if left_out else []),
            f"p {audit.p_value:.2g} that the largest stands out so far without a backdoor: {verdict}",
        )
    )


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
