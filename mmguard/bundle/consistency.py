"""What the fields of a manifest must be to each other, beyond their types."""

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmguard.bundle.contents import BOUNDS, PROBES, UNLISTED
from mmguard.detection.statistics import STATISTICS
from mmguard.inputs.spec import INPUT_DTYPES, InputSpec, Preprocessing

if TYPE_CHECKING:
    from mmguard.bundle.manifest import CalibrationFigures, Manifest, NullSpec, OutputSpec

MAX_NUMBERS = 2**32
"""Numbers in one input, and channels of one site, at most."""
MAX_AXIS = 15
MAX_PATH, MAX_DEPTH = 500, 16
IMAGE_AXES = 4
MAX_CLASSES = 80_000
"""A manifest with the margins of so many is as large as one may be."""
MAX_NAMES = 4 * 2**20
"""Bytes of all class names, as JSON."""


def check(manifest: "Manifest") -> None:
    """Refuse a manifest that no calibration writes.

    Raises:
        ValueError: which field is at odds with which.
    """
    classes = len(manifest.classes)
    if not 2 <= classes <= MAX_CLASSES:
        raise ValueError(f"there must be 2 to {MAX_CLASSES} classes, found {classes}")
    require_short(manifest.classes)
    _check_settings(manifest.settings)
    _check_input(manifest.input)
    _check_output(manifest.output)
    _check_files(manifest)
    _check_sites(manifest)
    _check_figures(manifest.calibration, classes)
    if manifest.null is not None:
        _check_null(manifest.null, classes)


def require_short(names: Sequence[str]) -> None:
    """Refuse class names that take up more of a manifest than is left for them.

    Raises:
        ValueError: they do.
    """
    if (size := sum(len(json.dumps(name)) for name in names)) > MAX_NAMES:
        raise ValueError(f"the class names have {size} bytes as JSON, at most {MAX_NAMES} are taken; give shorter ones")


def bundle_path(name: str) -> str:
    """A relative path inside the bundle, with forward slashes; external weights keep the names that the user gave.

    Raises:
        ValueError: the path could leave the folder, or is very long.
    """
    parts = name.split("/")
    if re.search(r"[\\:\x00]", name) or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file name {name!r} could leave the bundle")
    if len(name) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise ValueError(f"file name {name!r} is longer than {MAX_PATH} characters, or deeper than {MAX_DEPTH} folders")
    return name


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Scalars, or lists of these, so that whoever reads a setting finds nothing nested in it."""
    for name, value in settings.items():
        if any(isinstance(part, (dict, list)) for part in (value if isinstance(value, list) else [value])):
            raise ValueError(f"settings: {name!r} must be a scalar or a list of scalars")


def _check_input(spec: InputSpec) -> None:
    sizes = spec.shape[1:]
    if spec.dtype not in INPUT_DTYPES:
        raise ValueError(f"input dtype {spec.dtype!r} is unknown; this version knows {', '.join(INPUT_DTYPES)}")
    if not spec.name or len(spec.shape) not in range(2, MAX_AXIS + 2):
        raise ValueError("input: it must have a name, and a shape of 2 axes or more")
    if any(size is not None and size < 1 for size in spec.shape) or math.prod(map(_size, spec.shape)) > MAX_NUMBERS:
        raise ValueError(f"input shape {spec.shape} must be of positive lengths, or null, and of at most 2^32 numbers")
    _check_box(spec, tuple(map(_size, sizes)))
    if spec.preprocessing is not None:
        _check_preprocessing(spec.preprocessing, spec.shape)
    features = math.prod(map(_size, sizes))
    if spec.columns is not None and not (all(spec.columns) and (None in sizes or len(spec.columns) == features)):
        raise ValueError(f"input: columns must be {features} names, one a feature")


def _size(length: int | None) -> int:
    return length or 1


def _check_box(spec: InputSpec, one: tuple[int, ...]) -> None:
    """The box must broadcast against one input; where an axis is dynamic, it is 1 long."""
    low, high = spec.low, spec.high
    if low.shape != high.shape or low.ndim > len(one):
        raise ValueError(f"input: low and high must be alike, of at most {len(one)} axes")
    if any(length not in (1, size) for length, size in zip(reversed(low.shape), reversed(one), strict=False)):
        raise ValueError(f"input: low and high of shape {low.shape} do not broadcast against {spec.shape[1:]}")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ValueError("input: low and high must be finite in float32, and low at most high")


def _check_preprocessing(preprocessing: Preprocessing, shape: tuple[int | None, ...]) -> None:
    if preprocessing.layout == "auto":
        raise ValueError("preprocessing: the layout must be NCHW or NHWC")
    if len(shape) != IMAGE_AXES:
        raise ValueError(f"preprocessing: images have {IMAGE_AXES} axes with the batch's, the input {len(shape)}")


def _check_output(output: "OutputSpec") -> None:
    if not output.names or not set(output.derived) <= set(output.names) - {output.logits}:
        raise ValueError("output: there must be names, and derived must be some of them other than the logits")
    for names in (output.names, output.derived):
        _require_unique("output", names)


def _check_files(manifest: "Manifest") -> None:
    """Paths stay in the folder, and are different files on systems that do not tell capitals from small letters."""
    for name in (*manifest.files, *manifest.runtime_graphs.values()):
        bundle_path(name)
    _require_unique("files", map(_folded, (*UNLISTED, *manifest.files)))
    forms = {"original", "clipped", *(["head"] if manifest.output.derived else [])}
    if set(manifest.runtime_graphs) != forms:
        raise ValueError(f"runtime_graphs must be {sorted(forms)}, found {sorted(manifest.runtime_graphs)}")
    for name in (*manifest.runtime_graphs.values(), BOUNDS, PROBES):
        if name not in manifest.files:
            raise ValueError(f"files does not list {name}, which the guard needs")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _check_sites(manifest: "Manifest") -> None:
    _require_unique("sites", (site.value for site in manifest.sites))
    for site in manifest.sites:
        if not (site.value and 1 <= site.channels <= MAX_NUMBERS and -1 <= site.axis <= MAX_AXIS):
            raise ValueError(f"sites: {site.value!r} must have a name, an axis of -1 to {MAX_AXIS}, and channels")


def _check_figures(figures: "CalibrationFigures", classes: int) -> None:
    original, clipped = figures.original_margins, figures.clipped_margins
    if set(original) != set(clipped):
        raise ValueError("original_margins and clipped_margins must be of the same scales")
    for margins in (original, clipped):
        for scale, numbers in margins.items():
            _require_one_a_class(f"margins of {scale!r}", numbers, classes)


def _check_null(null: "NullSpec", classes: int) -> None:
    if not null.criteria:
        raise ValueError("null: it must have a criterion")
    for criterion in null.criteria:
        if criterion.statistic not in STATISTICS:
            raise ValueError(f"statistic {criterion.statistic!r} is unknown; known are {', '.join(STATISTICS)}")
        _require_one_a_class("intercepts", criterion.intercepts, classes)
    if len(null.clean_scores) != (0 if null.kind == "gaussian" else null.n):
        raise ValueError("null: clean_scores must be n numbers, or none where it is gaussian")
    if list(null.clean_scores) != sorted(null.clean_scores):
        raise ValueError("null: clean_scores must ascend")
    if null.kind == "bounded" and null.clean_scores[-1] <= 0:
        raise ValueError("null: the largest of clean_scores must be positive where it is bounded")
    null.test()  # refuses a theta that so few clean inputs cannot reach


def _require_one_a_class(what: str, numbers: tuple[float, ...], classes: int) -> None:
    if len(numbers) != classes:
        raise ValueError(f"{what} must be {classes} numbers, one a class, found {len(numbers)}")


def _require_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r} appears twice")
        seen.add(name)
