"""The section "Maximum margins": the largest margin of each class before and after clipping, and the verdict."""

from dataclasses import dataclass

import numpy as np

from mmguard.bundle.diagnostics import JUDGED
from mmguard.bundle.manifest import Manifest
from mmguard.detection.audit import ORTHOGONAL, Audit, audit
from mmguard.errors import AuditError
from mmguard.types import FloatArray

MOST_ROWS = 20
"""Maximum number of classes whose margins are shown."""

SCALES = {
    "sample": "each input is changed separately, by any amount within the valid range of its values",
    "orthogonal": "each input is changed separately, but does not get the features that are typical of the class",
    "shared": "the same faint perturbation is added to many clean inputs",
    "pixels": "the same pattern covers a few pixels of many clean inputs",
    "warp": "the same smooth warp is applied to many clean inputs",
}
"""How the margin search changes inputs at each scale."""


@dataclass(frozen=True)
class Row:
    """One class of the table.

    Attributes:
        name: name of the class.
        original: the class's margin on the original network, in logits.
        clipped: the class's margin on the clipped network, in logits.
        original_at: position of `original` on the page's axis, in per cent of the axis's width.
        clipped_at: position of `clipped` on the page's axis, in per cent of the axis's width.
        suspect: whether the audit reports the class as a backdoor's target.
    """

    name: str
    original: float
    clipped: float
    original_at: float
    clipped_at: float
    suspect: bool


@dataclass(frozen=True)
class Verdict:
    """The audit's verdict on the original network.

    Attributes:
        backdoored: whether one class stands out as a backdoor's target.
        suspect: index of the class with the largest margin.
        name: name of the class with the largest margin.
        p_value: smallest p-value of any scale, corrected for the number of scales; small is suspicious. None if there
            is no verdict.
        scale: scale with the smallest p-value.
        p_values: name and p-value of each scale, not corrected for the number of scales.
        unreached: for each scale whose comparison leaves out classes, the name of the scale and the names of the
            classes that are left out, separated by commas.
        refusal: reason why there is no verdict; empty if there is a verdict.
        cut: names of the scales that the time budget shortened or left out, separated by commas.
    """

    backdoored: bool = False
    suspect: int = 0
    name: str = ""
    p_value: float | None = None
    scale: str = JUDGED
    p_values: tuple[tuple[str, float], ...] = ()
    unreached: tuple[tuple[str, str], ...] = ()
    refusal: str = ""
    cut: str = ""


@dataclass(frozen=True)
class Margins:
    """The classes with the largest margins, at the scale that the verdict is based on.

    Attributes:
        rows: the classes in descending order of the original margin.
        scale: name of the scale.
        change: how the search changes inputs at this scale.
        unit: unit of the margins in the rows.
        zero_at: position of a margin of 0 on the page's axis, in per cent of the axis's width.
        negative: whether any margin shown is below 0.
        raised: number of classes, with or without a row, whose margin is larger on the clipped network than on the
            original network.
        left_out: number of classes without a row.
        left_out_largest: largest original margin of the classes without a row, in logits.
        left_out_median: median original margin of the classes without a row, in logits.
        before: largest margin of any class on the original network, in logits, when each input is changed separately.
        after: largest margin of any class on the clipped network, in logits, when each input is changed separately.
    """

    rows: tuple[Row, ...]
    scale: str
    change: str
    unit: str
    zero_at: float
    negative: bool
    raised: int
    left_out: int
    left_out_largest: float
    left_out_median: float
    before: float
    after: float


def read_verdict(manifest: Manifest) -> Verdict:
    """Audit the margins of a manifest.

    Args:
        manifest: the bundle's manifest.

    Returns:
        The verdict. If the margins do not allow a verdict, `refusal` contains the reason.
    """
    margins = manifest.calibration.margins()
    try:
        found = audit(margins, manifest.calibration.audit_cut)
    except AuditError as error:
        return Verdict(scale=next(iter(margins), JUDGED), refusal=str(error))
    cut = ", ".join(found.cut)
    p_values = tuple((name, each.p_value) for name, each in found.scales.items())
    name = manifest.classes[found.suspect]
    unreached = _unreached(found, manifest.classes)
    return Verdict(found.backdoored, found.suspect, name, found.p_value, found.scale, p_values, unreached, cut=cut)


def read_margins(manifest: Manifest, verdict: Verdict) -> Margins | None:
    """Sort the margins of a manifest and place them on the page's axis.

    Args:
        manifest: the bundle's manifest.
        verdict: the audit's verdict on these margins; the margins at the verdict's scale are used.

    Returns:
        The margins, or None if the search was skipped.
    """
    if not manifest.calibration.original_margins:
        return None
    original, clipped = _both(manifest, verdict.scale)
    before, after = _both(manifest, JUDGED if JUDGED in manifest.calibration.original_margins else verdict.scale)
    order = np.argsort(-original, kind="stable")
    shown, rest = order[:MOST_ROWS], original[order[MOST_ROWS:]]
    seen = np.concatenate([original[shown], clipped[shown], [0.0]])
    low, width = seen.min(), max(float(np.ptp(seen)), 1e-9)

    def at(margin: float) -> float:
        return round(2 + 96 * float(margin - low) / width, 2)

    def row(i: int) -> Row:
        places = at(original[i]), at(clipped[i])
        suspect = verdict.backdoored and i == verdict.suspect
        return Row(manifest.classes[i], float(original[i]), float(clipped[i]), *places, suspect)

    largest, median = (float(rest.max()), float(np.median(rest))) if len(rest) else (0.0, 0.0)
    return Margins(
        rows=tuple(row(int(i)) for i in shown),
        scale=verdict.scale,
        change=SCALES.get(verdict.scale, ""),
        unit="as a multiple of the mean margin of the class's clean inputs"
        if verdict.scale == ORTHOGONAL
        else "in logits",
        zero_at=at(0.0),
        negative=bool(low < 0),
        raised=int((clipped > original).sum()),
        left_out=len(rest),
        left_out_largest=largest,
        left_out_median=median,
        before=float(before.max()),
        after=float(after.max()),
    )


def _both(manifest: Manifest, scale: str) -> tuple[FloatArray, FloatArray]:
    """Return the margins (K,) of the original and the clipped network at a scale."""
    figures = manifest.calibration
    return np.array(figures.original_margins[scale]), np.array(figures.clipped_margins[scale])


def _unreached(found: Audit, classes: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, ", ".join(classes[label] for label in each.left_out))
        for name, each in found.scales.items()
        if each.left_out
    )
