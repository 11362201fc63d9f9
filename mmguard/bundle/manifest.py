"""The manifest of a guard bundle: what is in it, field by field, and its JSON. See docs/bundle.md."""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
from msgspec import Meta

from mmguard.bundle.consistency import check
from mmguard.bundle.decoding import decode, read_json, shortened
from mmguard.detection.mmdf import Criterion, MmdfTest, NullKind
from mmguard.detection.null import GaussianNull
from mmguard.detection.statistics import STATISTICS
from mmguard.errors import SchemaError
from mmguard.inputs.spec import InputSpec
from mmguard.types import ClipSite, FloatArray

SCHEMA_VERSION = 5
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of bundles: they become metric labels and paths in a URL."""
LONGEST = 1000
"""Characters of a class name, and of what else people read."""

Name = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN.pattern}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=LONGEST)]
Value = Annotated[str, Meta(min_length=1)]
"""An ONNX name."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
"""So far from the ends of float64 that no arithmetic of the test reaches them."""
Positive = Annotated[float, Meta(ge=1e-30, le=1e30)]
Count = Annotated[int, Meta(ge=1, lt=2**53)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the bundle."""

    size: Size
    sha256: Sha256


@dataclass(frozen=True)
class OutputSpec:
    """What the model answers.

    Attributes:
        names: ONNX names of the user's own outputs, in order.
        logits: name of the logits in the runtime graphs, float32 (N, K); one of `names` where they are an output.
        derived: those of `names` that are computed from the logits alone, which the output head does. What is in
            neither is given as the original network gives it.
        head: ONNX operators between the logits and these outputs.
    """

    names: tuple[Value, ...]
    logits: Value
    derived: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    def describe(self) -> str:
        """What each of the user's outputs is, in words."""
        given = [name for name in self.names if name not in self.derived]
        parts = [f"{name}: the logits themselves" for name in given if name == self.logits]
        if self.derived:
            how = " and ".join(self.head) or "a change of type"
            parts.append(f"{', '.join(self.derived)}: made of the logits by {how}")
        parts += [f"{name}: as the original network gives it" for name in given if name != self.logits]
        return "; ".join(parts)


@dataclass(frozen=True)
class CriterionSpec:
    """A statistic of the test, by its name, and the Gaussian that its values on clean inputs follow.

    Attributes:
        statistic: a key of `mmguard.detection.statistics.STATISTICS`. intercepts, slope: of its lines.
        power, scale, mean, std, n: see `mmguard.detection.null.GaussianNull`.
    """

    statistic: str
    intercepts: tuple[Number, ...]
    slope: Number
    power: Annotated[float, Meta(ge=0, le=2)]
    scale: Positive
    mean: Number
    std: Positive
    n: Count

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
    """The null distribution and the levels of the test (see `mmguard.detection.mmdf.MmdfTest`).

    Attributes:
        kind: what p-values are read off, `gaussian`, `empirical` or `bounded`.
        n: clean inputs that it was fitted on.
    """

    kind: NullKind
    n: Count
    theta: Annotated[float, Meta(gt=0, le=1)]
    disagreement_theta: Share
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

    n: Count
    labelled: bool
    original_accuracy: Share
    clipped_accuracy: Share
    agreement: Share
    flagged_share: Share
    original_margins: dict[Text, tuple[Number, ...]]
    clipped_margins: dict[Text, tuple[Number, ...]]
    rounds: Size
    converged: bool

    def margins(self) -> dict[str, FloatArray]:
        """Margins (K,) of the original by scale: what an audit judges."""
        return {scale: np.array(by_class) for scale, by_class in self.original_margins.items()}


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`. Two calibrations equal in model, inputs, options, versions and machine write the same bytes.

    Without a null there is no test: the clipped network is a corrected model, and answers (MMOM).
    """

    name: Name
    versions: dict[Text, Text]
    seed: Size
    preset: Text
    settings: dict[str, Any]
    input: InputSpec
    output: OutputSpec
    classes: tuple[Text, ...]
    runtime_graphs: dict[str, str]
    sites: tuple[ClipSite, ...]
    null: NullSpec | None
    calibration: CalibrationFigures
    files: dict[str, FileEntry]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The manifest's text: two-space indent, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, default=_encode, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a manifest.

        Raises:
            SchemaError: not JSON, another schema version, or a field missing, unknown, malformed or at odds
                with another.
        """
        try:
            raw = read_json(text.encode() if isinstance(text, str) else text)
        except ValueError as error:
            raise SchemaError(f"manifest.json is not JSON: {shortened(error)}") from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION or type(version) is not int:
            raise SchemaError(
                f"manifest.json has schema version {shortened(repr(version))}, this mmguard reads {SCHEMA_VERSION}; "
                "calibrate again, or use the version of mmguard that wrote it"
            )
        try:
            manifest = decode(raw, cls)
            check(manifest)
        except ValueError as error:
            raise SchemaError(f"manifest.json is malformed: {shortened(error)}") from error
        return manifest


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def class_name(name: str) -> str:
    """A class name as a metric's label can carry it.

    Raises:
        ValueError: it is no UTF-8 text, empty, or longer than 1000 characters.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it is not UTF-8") from error
    if not 1 <= len(name) <= LONGEST:
        raise ValueError(f"it must have 1 to {LONGEST} characters")
    return name
