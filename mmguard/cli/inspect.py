"""`mmguard inspect`: show what a bundle contains, or what mmguard finds in a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import Manifest, NullSpec
from mmguard.cli.app import DONE, FAILED, app
from mmguard.cli.console import safe_lines
from mmguard.pipeline.api import inspect_model
from mmguard.text.format import number, percent

if TYPE_CHECKING:
    from mmguard.pipeline.inspect import Inspection


@app.command
def inspect(path: Path, *, logits: str | None = None, json: bool = False) -> int:
    """Show what a bundle contains, or what mmguard finds in an ONNX file.

    For a bundle, the hash of every file is checked first. For an ONNX file that mmguard cannot calibrate, the command
    shows why and exits with code 1.

    Parameters
    ----------
    path
        Folder of the guard bundle, or ONNX file.
    logits
        For an ONNX file: ONNX name of the value that contains the logits (N, K), if mmguard cannot find the logits.
    json
        Print the whole manifest of a bundle, or everything found in an ONNX file, as JSON.
    """
    if path.suffix == ".onnx" or path.is_file():
        found = inspect_model(path, logits)
        print(found.to_json() if json else describe_model(found), end="" if json else "\n")
        return FAILED if found.obstacles else DONE
    bundle = Bundle.open(path)
    print(bundle.manifest.to_json() if json else describe_bundle(bundle), end="" if json else "\n")
    return DONE


def describe_bundle(bundle: Bundle) -> str:
    """Return a summary of a bundle, in about a dozen lines.

    Args:
        bundle: an open bundle.
    """
    manifest = bundle.manifest
    figures, spec = manifest.calibration, manifest.input
    shape = ", ".join("any" if size is None else str(size) for size in spec.shape[1:])
    accuracy = "unknown; the calibration set has no labels"
    if figures.labelled:
        accuracy = f"{percent(figures.original_accuracy)} original, {percent(figures.clipped_accuracy)} clipped"
    ended = "converged" if figures.converged else "the maximum"
    return safe_lines(
        (
            f"bundle      {bundle.path}",
            f"sha256      {bundle.digest()} (of the manifest, which lists the hashes of all other files)",
            f"model       {manifest.name}: input {spec.name} (N, {shape}){_batches(spec.shape)}, "
            f"{len(manifest.classes)} classes",
            f"clip sites  {len(manifest.sites)} activations, {sum(site.channels for site in manifest.sites)} bounds",
            f"calibrated  on {figures.n} inputs; preset {manifest.preset}, {figures.rounds} rounds ({ended})"
            + _folds(manifest),
            f"accuracy    {accuracy}; the networks agree on {percent(figures.agreement)} of the inputs",
            *_describe_test(manifest.null, figures.flagged_share),
            f"margins     {_describe_margins(manifest)}",
        )
    )


def _describe_margins(manifest: Manifest) -> str:
    """Return the margins of the three classes with the largest margins, as text."""
    figures = manifest.calibration
    if not figures.original_margins:
        return "not searched (too few --audit-minutes)" if figures.audit_cut else "not searched (--no-audit)"
    scale = next(iter(figures.original_margins))
    margins = zip(manifest.classes, figures.original_margins[scale], figures.clipped_margins[scale], strict=True)
    widest = sorted(margins, key=lambda row: -row[1])[:3]
    said = "; ".join(f"{name} {number(before)} → {number(after)}" for name, before, after in widest)
    return f"{said} (original → clipped; the classes with the largest margins at scale {scale})"


def _folds(manifest: Manifest) -> str:
    """Return text about the repetitions that each leave out one fold, or an empty string if there are no folds."""
    folds = manifest.settings.folds
    return f", then repeated {folds} times, each time without one of {folds} folds" if folds > 1 else ""


def _describe_test(null: NullSpec | None, flagged_share: float) -> tuple[str, ...]:
    if null is None:
        return ("test        none: the clipped network is a corrected model and answers every input",)
    if null.disagreement_theta != null.theta:
        disagreement = f" (p ≤ {null.disagreement_theta} if the networks disagree)"
    else:
        disagreement = ""
    return (
        f"null        {null.kind}, {null.n} inputs, statistics "
        + ", ".join(criterion.statistic for criterion in null.criteria),
        f"test        flags p ≤ {null.theta}{disagreement}; {percent(flagged_share)} of the calibration set is flagged",
    )


def describe_model(found: "Inspection") -> str:
    """Return what mmguard finds in a model: its input, outputs, clip sites and obstacles to calibration.

    Args:
        found: the inspection of the model.
    """
    shape = ", ".join("any" if size is None else str(size) for size in found.input_shape[1:])
    channels = sum(site.channels or 0 for site in found.sites)
    some = "" if all(site.channels for site in found.sites) else " or more"
    return safe_lines(
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
            f"verdict     mmguard {'cannot' if found.obstacles else 'can'} calibrate this model",
        )
    )


def _batches(shape: Sequence[int | None]) -> str:
    """Return a model's fixed batch size as text, or an empty string if the batch size is not fixed."""
    return "" if shape[0] is None else f", in batches of {shape[0]}"


def _axis(axis: int) -> str:
    return "last" if axis == -1 else str(axis)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as aligned columns below a header, or an empty list if there are no rows."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [f"  {line.rstrip()}" for line in lines] if rows else []
