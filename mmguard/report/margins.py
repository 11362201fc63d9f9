"""The largest margins by class, before and after clipping, and what the audit says of them."""

from dataclasses import dataclass

import numpy as np

from mmguard.bundle.diagnostics import JUDGED
from mmguard.bundle.manifest import Manifest
from mmguard.detection.audit import Audit, audit
from mmguard.errors import AuditError
from mmguard.types import FloatArray

SHOWN = 20
"""Classes whose margins the page shows."""

SCALES = {
    "sample": "each input changed by itself, as far as the input box allows",
    "shared": "one faint perturbation, the same for many clean inputs",
    "pixels": "one pattern on a few pixels, the same for many clean inputs",
    "warp": "one smooth warp, the same for many clean inputs",
}
"""What a scale of the search changes."""


@dataclass(frozen=True)
class Row:
    """One class: its margins in logits, and where they lie on the page's scale, in per cent."""

    name: str
    original: float
    clipped: float
    original_at: float
    clipped_at: float
    suspect: bool


@dataclass(frozen=True)
class Verdict:
    """The audit's word: of a backdoor's target class, of none, or why there is no word.

    Attributes:
        suspect: index of the class, and its name.
        p_value: None where there is no word. p_values: by scale.
        unreached: names of classes that were left out of the comparison, by scale.
    """

    backdoored: bool = False
    suspect: int = 0
    name: str = ""
    p_value: float | None = None
    scale: str = JUDGED
    p_values: tuple[tuple[str, float], ...] = ()
    unreached: tuple[tuple[str, str], ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Margins:
    """Rows of the classes with the largest margins, the largest first, at the scale that the verdict rests on.

    Attributes:
        scale: its name, and `change` what it is.
        zero_at: where a margin of 0 lies, in per cent. negative: whether any margin shown is below it.
        raised: number of classes, of all, whose margin is larger on the clipped network.
        left_out: number of the classes that are not among the rows; their largest margin on the original, and median.
        before, after: the largest margin of all classes on the original and on the clipped network where each input is
            changed by itself, which tells how much clipping takes away.
    """

    rows: tuple[Row, ...]
    scale: str
    change: str
    zero_at: float
    negative: bool
    raised: int
    left_out: int
    left_out_largest: float
    left_out_median: float
    before: float
    after: float


def read_verdict(manifest: Manifest) -> Verdict:
    """Audit the margins of a manifest."""
    margins = manifest.calibration.margins()
    try:
        found = audit(margins)
    except AuditError as error:
        return Verdict(scale=next(iter(margins), JUDGED), refusal=str(error))
    p_values = tuple((name, each.p_value) for name, each in found.scales.items())
    name = manifest.classes[found.suspect]
    unreached = _unreached(found, manifest.classes)
    return Verdict(found.backdoored, found.suspect, name, found.p_value, found.scale, p_values, unreached)


def read_margins(manifest: Manifest, verdict: Verdict) -> Margins | None:
    """Sort the margins of a manifest, and place them on a scale; None where they were not searched."""
    if not manifest.calibration.original_margins:
        return None
    original, clipped = _both(manifest, verdict.scale)
    before, after = _both(manifest, JUDGED if JUDGED in manifest.calibration.original_margins else verdict.scale)
    order = np.argsort(-original, kind="stable")
    shown, rest = order[:SHOWN], original[order[SHOWN:]]
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
    """Margins (K,) of both networks at a scale."""
    figures = manifest.calibration
    return np.array(figures.original_margins[scale]), np.array(figures.clipped_margins[scale])


def _unreached(found: Audit, classes: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, ", ".join(classes[label] for label in each.left_out))
        for name, each in found.scales.items()
        if each.left_out
    )
