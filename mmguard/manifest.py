"""The manifest of a guard bundle: what is in it, field by field, and its JSON. See docs/bundle.md."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from mmguard.errors import SchemaError
from mmguard.stats import ExpectedGap, GaussianNull, MmdfTest
from mmguard.types import ClipSite, InputSpec, Preprocessing, Tail

SCHEMA_VERSION = 1
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of bundles: they become metric labels and paths in a URL."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class OutputSpec:
    """The model's output.

    Attributes:
        name: ONNX name of the user's own output, (N, K).
        logits: ONNX name under which the plans give the logits, (N, K); `name` itself where that is the logits.
        tail: what lies between `logits` and `name`.
    """

    name: str
    logits: str
    tail: Tail


@dataclass(frozen=True)
class NullSpec:
    """The null distribution and the levels of the test (see `mmguard.stats.MmdfTest`)."""

    kind: str
    power: float
    scale: float
    mean: float
    std: float
    n: int
    slope: float
    intercepts: tuple[float, ...]
    theta: float
    disagreement_theta: float

    def test(self) -> MmdfTest:
        """The test that this null defines."""
        null = GaussianNull(self.mean, self.std, self.n, self.power, self.scale)
        return MmdfTest(null, self.theta, self.disagreement_theta, ExpectedGap(self.intercepts, self.slope))


@dataclass(frozen=True)
class CalibrationFigures:
    """What was seen on the clean set D while calibrating.

    Attributes:
        n: inputs. labelled: whether accuracies are against the user's labels or against the original's decisions.
        original_accuracy, clipped_accuracy: shares in [0, 1] of D.
        agreement: share of D on which both networks decide the same.
        flagged_share: share of D that the finished test flags.
        original_margins, clipped_margins: by class, mean margin that the search reached, in logits.
        rounds, converged: rounds run, and whether they ended because the objective no longer changed.
    """

    n: int
    labelled: bool
    original_accuracy: float
    clipped_accuracy: float
    agreement: float
    flagged_share: float
    original_margins: tuple[float, ...]
    clipped_margins: tuple[float, ...]
    rounds: int
    converged: bool


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`. Two calibrations equal in model, inputs, options, versions and machine write the same bytes.

    Without a null there is no test: the clipped network is a corrected model, and answers (MMOM).
    """

    name: str
    versions: dict[str, str]
    seed: int
    preset: str
    settings: dict[str, Any]
    input: InputSpec
    output: OutputSpec
    classes: tuple[str, ...]
    plans: dict[str, str]
    sites: tuple[ClipSite, ...]
    null: NullSpec | None
    calibration: CalibrationFigures
    files: dict[str, FileEntry]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The manifest's text: two-space indent, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, default=_encode, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a manifest.

        Raises:
            SchemaError: not JSON, another schema version, or a field missing, unknown or malformed.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"manifest.json is not JSON: {error}") from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise SchemaError(
                f"manifest.json has schema version {version!r}, this mmguard reads {SCHEMA_VERSION}; "
                "calibrate again, or use the version of mmguard that wrote it"
            )
        try:
            return cls(**_decode(cls, raw))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SchemaError(f"manifest.json is malformed: {error}") from error


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _known(kind: type, raw: dict[str, Any]) -> dict[str, Any]:
    """The raw fields of a dataclass, refused if any is missing or unknown."""
    names = {field.name for field in fields(kind)}
    if set(raw) != names:
        raise ValueError(f"{kind.__name__} has fields {sorted(names)}, found {sorted(raw)}")
    return raw


def _decode(kind: type[Manifest], raw: dict[str, Any]) -> dict[str, Any]:
    _known(kind, raw)
    if not NAME_PATTERN.fullmatch(raw["name"]):
        raise ValueError(f"name {raw['name']!r} is not of the form {NAME_PATTERN.pattern}")
    return raw | {
        "input": _decode_input(raw["input"]),
        "output": OutputSpec(**_known(OutputSpec, raw["output"]) | {"tail": Tail(raw["output"]["tail"])}),
        "classes": tuple(class_name(name) for name in raw["classes"]),
        "sites": tuple(ClipSite(**_known(ClipSite, site)) for site in raw["sites"]),
        "null": _decode_null(raw["null"], len(raw["classes"])),
        "calibration": _decode_figures(raw["calibration"], len(raw["classes"])),
        "files": {bundle_path(name): FileEntry(**_known(FileEntry, entry)) for name, entry in raw["files"].items()},
        "plans": {form: bundle_path(raw["plans"][form]) for form in ("original", "clipped")},
    }


def _decode_input(raw: dict[str, Any]) -> InputSpec:
    preprocessing = raw["preprocessing"]
    if preprocessing is not None:
        _known(Preprocessing, preprocessing)
        size = preprocessing["size"]
        preprocessing = Preprocessing(
            **preprocessing
            | {
                "size": tuple(size) if size is not None else None,
                "mean": tuple(preprocessing["mean"]),
                "std": tuple(preprocessing["std"]),
            }
        )
    return InputSpec(
        **_known(InputSpec, raw)
        | {
            "shape": tuple(raw["shape"]),
            "low": np.asarray(raw["low"], dtype=np.float32),
            "high": np.asarray(raw["high"], dtype=np.float32),
            "preprocessing": preprocessing,
        }
    )


def _decode_figures(raw: dict[str, Any], classes: int) -> CalibrationFigures:
    margins = {key: _one_a_class(key, raw, classes) for key in ("original_margins", "clipped_margins")}
    return CalibrationFigures(**_known(CalibrationFigures, raw) | margins)


def _one_a_class(key: str, raw: dict[str, Any], classes: int) -> tuple[float, ...]:
    numbers = tuple(map(float, raw[key]))
    if len(numbers) != classes or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{key} must be {classes} finite numbers, one a class")
    return numbers


def _decode_null(raw: dict[str, Any] | None, classes: int) -> NullSpec | None:
    if raw is None:
        return None
    null = NullSpec(**_known(NullSpec, raw) | {"intercepts": _one_a_class("intercepts", raw, classes)})
    if null.kind != "gaussian":
        raise ValueError(f"null distribution {null.kind!r} is unknown; this version knows gaussian")
    finite = all(math.isfinite(number) for number in (null.mean, null.std, null.scale, null.slope))
    levels = 0 < null.theta <= 1 and 0 <= null.disagreement_theta <= 1
    if not (finite and null.std > 0 and null.scale > 0 and 0 <= null.power <= 2 and levels):
        raise ValueError(
            "null: mean, slope and positive std must be finite, power in [0, 2], theta in (0, 1], "
            "disagreement_theta in [0, 1]"
        )
    return null


def bundle_path(name: str) -> str:
    """A relative path inside the bundle, with forward slashes; external weights keep the names that the user gave.

    Raises:
        ValueError: the path could leave the folder.
    """
    if re.search(r"[\\:\x00]", name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"file name {name!r} could leave the bundle")
    return name


def class_name(name: str) -> str:
    """A class name as a metric's label can carry it.

    Raises:
        ValueError: it is no UTF-8 text.
    """
    name.encode()
    return name
