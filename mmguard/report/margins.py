"""The largest margins by class, before and after clipping, and what the audit says of them."""

from dataclasses import dataclass

import numpy as np

from mmguard.audit import audit
from mmguard.errors import AuditError
from mmguard.manifest import Manifest

SHOWN = 20
"""Classes whose margins the page shows."""


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
        scale: of the search, whose margins the word rests on. p_values: by scale.
    """

    backdoored: bool
    suspect: str
    p_value: float | None
    scale: str
    p_values: tuple[tuple[str, float], ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Margins:
    """Rows of the classes with the largest margins, the largest first.

    Attributes:
        left_out: number of the classes that are not among the rows; their largest margin on the original, and median.
        before, after: the largest margin of all classes, on the original and on the clipped network.
    """

    rows: tuple[Row, ...]
    verdict: Verdict
    left_out: int
    left_out_largest: float
    left_out_median: float
    before: float
    after: float


def read_margins(manifest: Manifest) -> Margins:
    """Sort and scale the margins of a manifest, and audit them."""
    verdict = _verdict(manifest)
    original = np.array(manifest.calibration.original_margins[verdict.scale])
    clipped = np.array(manifest.calibration.clipped_margins[verdict.scale])
    order = np.argsort(-original, kind="stable")
    shown, rest = order[:SHOWN], original[order[SHOWN:]]
    seen = np.concatenate([original[shown], clipped[shown], [0.0]])
    low, width = seen.min(), max(float(np.ptp(seen)), 1e-9)

    def row(i: int) -> Row:
        name = manifest.classes[i]
        before, after = (round(2 + 96 * float(values[i] - low) / width, 2) for values in (original, clipped))
        stands_out = verdict.backdoored and name == verdict.suspect
        return Row(name, float(original[i]), float(clipped[i]), before, after, stands_out)

    largest, median = (float(rest.max()), float(np.median(rest))) if len(rest) else (0.0, 0.0)
    rows = tuple(row(int(i)) for i in shown)
    return Margins(rows, verdict, len(rest), largest, median, float(original.max()), float(clipped.max()))


def _verdict(manifest: Manifest) -> Verdict:
    margins = {scale: np.array(values) for scale, values in manifest.calibration.original_margins.items()}
    try:
        found = audit(margins)
    except AuditError as error:
        return Verdict(False, "", None, next(iter(margins)), refusal=str(error))
    p_values = tuple((name, each.p_value) for name, each in found.scales.items())
    return Verdict(found.backdoored, manifest.classes[found.suspect], found.p_value, found.scale, p_values)
