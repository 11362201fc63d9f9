"""The manifest of a guard bundle: what is in it, field by field, and its JSON. See docs/bundle.md."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, get_args, get_type_hints

import numpy as np

from mmguard.errors import SchemaError
from mmguard.mmdf import STATISTICS, Criterion, MmdfTest, NullKind
from mmguard.stats import GaussianNull
from mmguard.types import INPUT_DTYPES, ClipSite, FloatArray, InputSpec, Preprocessing

SCHEMA_VERSION = 3
SCALARS: dict[type, tuple[type, ...]] = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}
"""What JSON may give for a field, by its type."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of bundles: they become metric labels and paths in a URL."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class OutputSpec:
    """What the model answers.

    Attributes:
        names: ONNX names of the user's own outputs, in order.
        logits: name under which the plans give the logits, float32 (N, K); one of `names` where they are an output.
        derived: those of `names` that are computed from the logits alone, which the plan `tail` does. What is in
            neither is given as the original network gives it.
        tail: ONNX operators between the logits and these outputs.
    """

    names: tuple[str, ...]
    logits: str
    derived: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    def describe(self) -> str:
        """What each of the user's outputs is, in words."""
        given = [name for name in self.names if name not in self.derived]
        parts = [f"{name}: the logits themselves" for name in given if name == self.logits]
        if self.derived:
            how = " and ".join(self.tail) or "a change of type"
            parts.append(f"{', '.join(self.derived)}: made of the logits by {how}")
        parts += [f"{name}: as the original network gives it" for name in given if name != self.logits]
        return "; ".join(parts)


@dataclass(frozen=True)
class CriterionSpec:
    """A statistic of the test, by its name, and the Gaussian that its values on clean inputs follow.

    Attributes:
        statistic: a key of `mmguard.mmdf.STATISTICS`. intercepts, slope: of its lines.
        power, scale, mean, std, n: see `mmguard.stats.GaussianNull`.
    """

    statistic: str
    intercepts: tuple[float, ...]
    slope: float
    power: float
    scale: float
    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, statistic: str, criterion: Criterion) -> Self:
        """What the manifest says of a criterion."""
        lines, null = criterion.statistic, criterion.null
        return cls(statistic, lines.intercepts, lines.slope, null.power, null.scale, null.mean, null.std, null.n)

    def criterion(self) -> Criterion:
        """The criterion that this describes."""
        null = GaussianNull(self.mean, self.std, self.n, self.power, self.scale)
        return Criterion(STATISTICS[self.statistic](self.intercepts, self.slope), null)


@dataclass(frozen=True)
class NullSpec:
    """The null distribution and the levels of the test (see `mmguard.mmdf.MmdfTest`).

    Attributes:
        kind: what p-values are read off, `gaussian`, `empirical` or `bounded`.
        n: clean inputs that it was fitted on.
    """

    kind: NullKind
    n: int
    theta: float
    disagreement_theta: float
    criteria: tuple[CriterionSpec, ...]
    clean_scores: tuple[float, ...]

    def test(self) -> MmdfTest:
        """The test that this null defines."""
        criteria = tuple(spec.criterion() for spec in self.criteria)
        return MmdfTest(criteria, self.theta, self.disagreement_theta, self.kind, self.clean_scores)

    def fitted(self) -> MmdfTest:
        """The same test with the p-values of the fitted Gaussian nulls, whatever the kind."""
        return replace(self, kind="gaussian", clean_scores=()).test()


@dataclass(frozen=True)
class CalibrationFigures:
    """What was seen on the clean set D while calibrating.

    Attributes:
        n: inputs. labelled: whether accuracies are against the user's labels or against the original's decisions.
        original_accuracy, clipped_accuracy: shares in [0, 1] of D.
        agreement: share of D on which both networks decide the same.
        flagged_share: share of D that the finished test flags.
        original_margins, clipped_margins: by scale of the search, mean margin that it reached by class, in logits; both
            have the same scales, none where the search was left out.
        rounds, converged: rounds run, and whether they ended because the objective no longer changed.
    """

    n: int
    labelled: bool
    original_accuracy: float
    clipped_accuracy: float
    agreement: float
    flagged_share: float
    original_margins: dict[str, tuple[float, ...]]
    clipped_margins: dict[str, tuple[float, ...]]
    rounds: int
    converged: bool

    def margins(self) -> dict[str, FloatArray]:
        """Margins (K,) of the original by scale: what an audit judges."""
        return {scale: np.array(by_class) for scale, by_class in self.original_margins.items()}


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
    """The raw fields of a dataclass, refused if any is missing or unknown, or a scalar is of another type."""
    names = {field.name for field in fields(kind)}
    if set(raw) != names:
        raise ValueError(f"{kind.__name__} has fields {sorted(names)}, found {sorted(raw)}")
    for name, expected in get_type_hints(kind).items():
        if expected in SCALARS and type(raw[name]) not in SCALARS[expected]:
            raise ValueError(f"{kind.__name__}: {name} must be {expected.__name__}, found {raw[name]!r}")
    return raw


def _decode(kind: type[Manifest], raw: dict[str, Any]) -> dict[str, Any]:
    _known(kind, raw)
    if not NAME_PATTERN.fullmatch(raw["name"]):
        raise ValueError(f"name {raw['name']!r} is not of the form {NAME_PATTERN.pattern}")
    return raw | {
        "input": _decode_input(raw["input"]),
        "output": _decode_output(raw["output"]),
        "classes": tuple(class_name(name) for name in raw["classes"]),
        "sites": tuple(ClipSite(**_known(ClipSite, site)) for site in raw["sites"]),
        "null": _decode_null(raw["null"], len(raw["classes"])),
        "calibration": _decode_figures(raw["calibration"], len(raw["classes"])),
        "files": {bundle_path(name): FileEntry(**_known(FileEntry, entry)) for name, entry in raw["files"].items()},
        "plans": _decode_plans(raw["plans"], bool(raw["output"]["derived"])),
    }


def _decode_output(raw: dict[str, Any]) -> OutputSpec:
    keys = ("names", "derived", "tail")
    if not all(isinstance(raw[key], list) for key in keys):
        raise ValueError(f"output: {', '.join(keys)} must be lists")
    lists = {key: tuple(map(str, raw[key])) for key in keys}
    output = OutputSpec(**_known(OutputSpec, raw) | lists)
    if not output.names or not set(output.derived) <= set(output.names) - {output.logits}:
        raise ValueError("output: there must be names, and derived must be some of them other than the logits")
    return output


def _decode_plans(raw: dict[str, Any], derived: bool) -> dict[str, str]:
    forms = {"original", "clipped", *(["tail"] if derived else [])}
    if set(raw) != forms:
        raise ValueError(f"plans must be {sorted(forms)}, found {sorted(raw)}")
    return {form: bundle_path(name) for form, name in raw.items()}


def _decode_input(raw: dict[str, Any]) -> InputSpec:
    preprocessing = raw["preprocessing"]
    spec = InputSpec(
        **_known(InputSpec, raw)
        | {
            "shape": tuple(raw["shape"]),
            "low": np.asarray(raw["low"], dtype=np.float32),
            "high": np.asarray(raw["high"], dtype=np.float32),
            "preprocessing": None if preprocessing is None else _decode_preprocessing(preprocessing),
            "columns": None if raw["columns"] is None else tuple(map(str, raw["columns"])),
        }
    )
    if spec.dtype not in INPUT_DTYPES:
        raise ValueError(f"input dtype {spec.dtype!r} is unknown; this version knows {', '.join(INPUT_DTYPES)}")
    return spec


def _decode_preprocessing(raw: dict[str, Any]) -> Preprocessing:
    _known(Preprocessing, raw)
    lists = {key: None if raw[key] is None else tuple(raw[key]) for key in ("size", "crop", "mean", "std")}
    preprocessing = Preprocessing(**raw | lists)
    if preprocessing.layout == "auto":
        raise ValueError("preprocessing: the layout must be NCHW or NHWC")
    return preprocessing


def _decode_figures(raw: dict[str, Any], classes: int) -> CalibrationFigures:
    keys = ("original_margins", "clipped_margins")
    if not all(isinstance(raw[key], dict) for key in keys):
        raise ValueError(f"calibration: {' and '.join(keys)} must be numbers a class by scale")
    margins = {key: {scale: _one_a_class(scale, raw[key], classes) for scale in raw[key]} for key in keys}
    if set(margins[keys[0]]) != set(margins[keys[1]]):
        raise ValueError("original_margins and clipped_margins must be of the same scales")
    figures = CalibrationFigures(**_known(CalibrationFigures, raw) | margins)
    shares = (figures.original_accuracy, figures.clipped_accuracy, figures.agreement, figures.flagged_share)
    if figures.n < 1 or not all(0 <= share <= 1 for share in shares):
        raise ValueError("calibration: n must be positive, and accuracies, agreement and flagged_share in [0, 1]")
    return figures


def _one_a_class(key: str, raw: dict[str, Any], classes: int) -> tuple[float, ...]:
    numbers = tuple(map(float, raw[key]))
    if len(numbers) != classes or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{key} must be {classes} finite numbers, one a class")
    return numbers


def _decode_null(raw: dict[str, Any] | None, classes: int) -> NullSpec | None:
    if raw is None:
        return None
    criteria = tuple(_decode_criterion(criterion, classes) for criterion in raw["criteria"])
    scores = tuple(map(float, raw["clean_scores"]))
    null = NullSpec(**_known(NullSpec, raw) | {"criteria": criteria, "clean_scores": scores})
    if null.kind not in get_args(NullKind):
        raise ValueError(f"null {null.kind!r} is unknown; this version knows {', '.join(get_args(NullKind))}")
    if null.n < 1:
        raise ValueError("null: n must be positive")
    if not (criteria and 0 < null.theta <= 1 and 0 <= null.disagreement_theta <= 1):
        raise ValueError("null: theta must be in (0, 1], disagreement_theta in [0, 1], and there must be a criterion")
    if len(scores) != (0 if null.kind == "gaussian" else null.n) or not all(map(math.isfinite, scores)):
        raise ValueError("null: clean_scores must be n finite numbers, or none where it is gaussian")
    if null.kind == "bounded" and scores[-1] <= 0:
        raise ValueError("null: the largest of clean_scores must be positive where it is bounded")
    if list(scores) != sorted(scores):
        raise ValueError("null: clean_scores must ascend")
    return null


def _decode_criterion(raw: dict[str, Any], classes: int) -> CriterionSpec:
    criterion = CriterionSpec(**_known(CriterionSpec, raw) | {"intercepts": _one_a_class("intercepts", raw, classes)})
    if criterion.statistic not in STATISTICS:
        raise ValueError(f"statistic {criterion.statistic!r} is unknown; this version knows {', '.join(STATISTICS)}")
    finite = all(map(math.isfinite, (criterion.mean, criterion.std, criterion.scale, criterion.slope)))
    if not (finite and criterion.std > 0 and criterion.scale > 0 and 0 <= criterion.power <= 2):
        raise ValueError("criterion: mean, slope, positive std and scale must be finite, power in [0, 2]")
    return criterion


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
