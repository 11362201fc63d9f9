"""Check that the fields of a manifest are consistent. Field types are checked in `mmguard.bundle.decoding`."""

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from mmguard.bundle.file_names import BOUNDS, PROBES, UNLISTED
from mmguard.detection.statistics import READ_ACTIVATIONS, STATISTICS
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.runtime.dtypes import INPUT_DTYPES

if TYPE_CHECKING:
    from mmguard.bundle.manifest import CalibrationFigures, CriterionSpec, Manifest, NullSpec, OutputSpec

MAX_NUMBERS = 2**32
"""Largest number of values in the model's input, and largest number of channels of a clip site."""
MAX_AXIS = 15
MAX_PATH, MAX_DEPTH = 500, 16
IMAGE_AXES = 4
MAX_CLASSES = 80_000
"""Largest number of classes. The margins of more classes would not fit into the largest manifest that mmguard reads."""
SPREADS = frozenset({"stds", "std", "gap_std"})
"""Parameters of statistics by which values are divided."""
LEAST_SPREAD = 1e-30
WIDTH = {"NCHW": 3, "NHWC": 2}
"""Axis of the width of images, by layout."""
MAX_NAMES = 4 * 2**20
"""Largest total size of the class names as JSON, in bytes."""


def check(manifest: "Manifest") -> None:
    """Check that the fields of a manifest are in range and do not contradict each other.

    Args:
        manifest: a manifest whose fields have the right types.

    Raises:
        ValueError: Some fields contradict each other or are out of range; the message lists these fields.
    """
    classes = len(manifest.classes)
    if not 2 <= classes <= MAX_CLASSES:
        raise ValueError(f"classes: expected 2 to {MAX_CLASSES} names, got {classes}")
    require_short(manifest.classes)
    _check_input(manifest.input)
    _check_output(manifest.output)
    _check_files(manifest)
    _check_sites(manifest)
    _check_figures(manifest.calibration, classes)
    _check_evidence(manifest)
    _check_mirror_axis(manifest)
    if manifest.null is not None:
        _check_null(manifest.null, classes, len(manifest.evidence))


def require_short(names: Sequence[str]) -> None:
    """Check that the class names are short enough to fit into a manifest.

    Args:
        names: all class names.

    Raises:
        ValueError: The names take up more than 4 MiB as JSON.
    """
    if (size := sum(len(json.dumps(name)) for name in names)) > MAX_NAMES:
        raise ValueError(
            f"the class names take up {size} bytes as JSON, but at most {MAX_NAMES} bytes are allowed; use shorter "
            "names"
        )


def bundle_path(name: str) -> str:
    """Check that a file name is a relative path inside the bundle, with forward slashes.

    External weights keep the names that the user gave them, so a name may contain folders.

    Args:
        name: the file name.

    Returns:
        The same name.

    Raises:
        ValueError: The path could point outside the bundle, is too long or has too many folders.

    Example:
        >>> bundle_path("runtime/head.onnx")
        'runtime/head.onnx'
    """
    parts = name.split("/")
    if re.search(r"[\\:\x00]", name) or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file name {name!r} could point outside the bundle")
    if len(name) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise ValueError(f"file name {name!r} has more than {MAX_PATH} characters or more than {MAX_DEPTH} components")
    return name


def _check_input(spec: InputSpec) -> None:
    sizes = spec.shape[1:]
    if spec.dtype not in INPUT_DTYPES:
        raise ValueError(f"input.dtype: expected one of {', '.join(INPUT_DTYPES)}, got {spec.dtype!r}")
    if not spec.name or len(spec.shape) not in range(2, MAX_AXIS + 2):
        raise ValueError(
            f"input: expected a name and 2 to {MAX_AXIS + 1} axes, got name {spec.name!r} and {len(spec.shape)} axes"
        )
    if any(size is not None and size < 1 for size in spec.shape) or math.prod(map(_size, spec.shape)) > MAX_NUMBERS:
        raise ValueError(
            "input.shape: expected every length to be positive or null, and at most 2^32 values in total, "
            f"got {spec.shape}"
        )
    _check_box(spec, tuple(map(_size, sizes)))
    if spec.preprocessing is not None:
        _check_preprocessing(spec.preprocessing, spec.shape)
    features = math.prod(map(_size, sizes))
    if spec.columns is not None and not (all(spec.columns) and (None in sizes or len(spec.columns) == features)):
        raise ValueError("input.columns: expected one non-empty name for each feature")


def _size(length: int | None) -> int:
    return length or 1


def _check_box(spec: InputSpec, one: tuple[int, ...]) -> None:
    """Check that the box broadcasts to the shape of an input; along a dynamic axis, the box must have length 1."""
    low, high = spec.low, spec.high
    if low.shape != high.shape or low.ndim > len(one):
        raise ValueError(
            f"input: expected low and high to have the same shape, with at most {len(one)} axes, got shapes "
            f"{low.shape} and {high.shape}"
        )
    if any(length not in (1, size) for length, size in zip(reversed(low.shape), reversed(one), strict=False)):
        raise ValueError(
            f"input: low and high of shape {low.shape} do not broadcast to an input of shape {spec.shape[1:]}"
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ValueError("input: expected low and high to be finite in float32, with low ≤ high")


def _check_preprocessing(preprocessing: Preprocessing, shape: tuple[int | None, ...]) -> None:
    if preprocessing.layout == "auto":
        raise ValueError("input.preprocessing.layout: expected NCHW or NHWC, got auto")
    if len(shape) != IMAGE_AXES:
        raise ValueError(f"input.preprocessing: expected an input with {IMAGE_AXES} axes, got {len(shape)} axes")


def _check_output(output: "OutputSpec") -> None:
    if not output.names or not set(output.derived) <= set(output.names) - {output.logits}:
        raise ValueError(
            "output: expected at least one name, and every derived output to be one of the names other than the logits"
        )
    for names in (output.names, output.derived):
        _require_unique("output", names)


def _check_files(manifest: "Manifest") -> None:
    """Check that all paths stay inside the bundle and are different, even on case-insensitive file systems."""
    for name in (*manifest.files, *manifest.runtime_graphs.values()):
        bundle_path(name)
    _require_unique("files", map(_folded, (*UNLISTED, *manifest.files)))
    forms = {"original", "clipped", *(["head"] if manifest.output.derived else [])}
    if set(manifest.runtime_graphs) != forms:
        raise ValueError(f"runtime_graphs: expected the keys {sorted(forms)}, got {sorted(manifest.runtime_graphs)}")
    for name in (*manifest.runtime_graphs.values(), BOUNDS, PROBES):
        if name not in manifest.files:
            raise ValueError(f"files: expected an entry for {name}, which the guard needs")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _check_sites(manifest: "Manifest") -> None:
    _require_unique("sites", (site.value for site in manifest.sites))
    for site in manifest.sites:
        if not (site.value and 1 <= site.channels <= MAX_NUMBERS and -1 <= site.axis <= MAX_AXIS):
            raise ValueError(
                f"sites: expected a name, an axis from -1 to {MAX_AXIS} and 1 to 2^32 channels, got name "
                f"{site.value!r}, axis {site.axis} and {site.channels} channels"
            )


def _check_figures(figures: "CalibrationFigures", classes: int) -> None:
    original, clipped = figures.original_margins, figures.clipped_margins
    if set(original) != set(clipped):
        raise ValueError("calibration: expected original_margins and clipped_margins to have the same keys")
    for margins in (original, clipped):
        for scale, numbers in margins.items():
            _require_one_per_class(f"margins of {scale!r}", numbers, classes)


def _check_mirror_axis(manifest: "Manifest") -> None:
    """Check that only images are mirrored, and only along their width."""
    preprocessing, axis = manifest.input.preprocessing, manifest.mirror_axis
    width = None if preprocessing is None else WIDTH.get(preprocessing.layout)
    if axis is not None and axis != width:
        raise ValueError(f"mirror_axis: expected null or the axis of the width of images ({width}), got {axis}")


def _check_evidence(manifest: "Manifest") -> None:
    _require_unique("evidence", (f"{site.value} ({site.feature})" for site in manifest.evidence))
    for site in manifest.evidence:
        if not site.value or not -1 <= site.axis <= MAX_AXIS:
            raise ValueError(
                f"evidence: expected a name and an axis from -1 to {MAX_AXIS}, got name {site.value!r} and axis "
                f"{site.axis}"
            )


def _check_null(null: "NullSpec", classes: int, sites: int) -> None:
    if not null.criteria:
        raise ValueError("null.criteria: expected at least one criterion")
    for criterion in null.criteria:
        if criterion.statistic not in STATISTICS:
            raise ValueError(f"statistic: expected one of {', '.join(STATISTICS)}, got {criterion.statistic!r}")
        _check_parameters(criterion, classes, sites)
    if len(null.clean_scores) != (0 if null.kind == "gaussian" else null.n):
        raise ValueError(
            f"null.clean_scores: expected {null.n} numbers (null.n), or no numbers if null.kind is gaussian, got "
            f"{len(null.clean_scores)} numbers"
        )
    if list(null.clean_scores) != sorted(null.clean_scores):
        raise ValueError("null.clean_scores: expected numbers in ascending order")
    if null.kind == "bounded" and null.clean_scores[-1] <= 0:
        raise ValueError("null.clean_scores: expected the largest number to be positive, because null.kind is bounded")
    null.test()  # raises an error if theta is too small for this number of clean inputs


def _check_parameters(criterion: "CriterionSpec", classes: int, sites: int) -> None:
    """Check that a criterion has the parameters of its statistic, each with the right number of values."""
    kind, given = STATISTICS[criterion.statistic], criterion.parameters
    expected = {field.name: str(field.type).startswith("tuple") for field in fields(kind)}
    if {name: isinstance(value, tuple) for name, value in given.items()} != expected:
        raise ValueError(
            f"parameters of {criterion.statistic!r}: expected {', '.join(expected) or 'none'}, got "
            f"{', '.join(given) or 'none'}"
        )
    for name, value in given.items():
        if isinstance(value, tuple):
            _require_number_of(f"{name} of {criterion.statistic!r}", value, classes if name == "intercepts" else sites)
        if name in SPREADS and not np.all(np.asarray(value) >= LEAST_SPREAD):
            raise ValueError(f"{name} of {criterion.statistic!r}: expected numbers of at least {LEAST_SPREAD}")
    if criterion.statistic in READ_ACTIVATIONS and not sites:
        raise ValueError(f"statistic {criterion.statistic!r}: expected at least one site in evidence")


def _require_number_of(what: str, numbers: tuple[float, ...], count: int) -> None:
    if len(numbers) != count:
        raise ValueError(f"{what}: expected {count} numbers, got {len(numbers)}")


def _require_one_per_class(what: str, numbers: tuple[float, ...], classes: int) -> None:
    if len(numbers) != classes:
        raise ValueError(f"{what}: expected {classes} numbers, one per class, got {len(numbers)}")


def _require_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r} appears more than once")
        seen.add(name)
