"""The manifest of a guard bundle, and its conversion to and from JSON. See docs/bundle.md."""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
from msgspec import Meta

from mmguard.bundle.decoding import decode, read_json, shortened
from mmguard.bundle.manifest_checks import check
from mmguard.detection.mmdf import Criterion, MmdfTest, NullKind
from mmguard.detection.null import GaussianNull
from mmguard.detection.statistics import STATISTICS
from mmguard.errors import SchemaError
from mmguard.inputs.spec import InputSpec
from mmguard.settings import Settings
from mmguard.types import ClipSite, EvidenceSite, FloatArray

SCHEMA_VERSION = 7
ACTIVATIONS = "mmguard_activations"
"""Name of the output of the original network's runtime graph that contains what the test reads of its activations."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Pattern of bundle names, which are used as metric labels and in URLs."""
LONGEST = 1000
"""Largest number of characters in a class name, or in any other text that people read."""

Name = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN.pattern}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=LONGEST)]
Value = Annotated[str, Meta(min_length=1)]
"""Name of an ONNX value."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
"""A number small enough that the test's arithmetic never overflows float64."""
Positive = Annotated[float, Meta(ge=1e-30, le=1e30)]
Count = Annotated[int, Meta(ge=1, lt=2**53)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of the bundle.

    Attributes:
        size: size in bytes.
        sha256: SHA-256, 64 hexadecimal digits in lower case.
    """

    size: Size
    sha256: Sha256


@dataclass(frozen=True)
class OutputSpec:
    """The outputs of the model.

    Attributes:
        names: ONNX names of the model's outputs, in order.
        logits: name of the logits in the runtime graphs, float32 (N, K); one of `names` if the model outputs its
            logits.
        derived: those outputs in `names` that the output head computes from the logits alone. All outputs other than
            these and the logits are always taken from the original network.
        head: ONNX operators that compute the derived outputs from the logits.
    """

    names: tuple[Value, ...]
    logits: Value
    derived: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    def describe(self) -> str:
        """Describe where each of the model's outputs comes from.

        Returns:
            One line of human-readable text.

        Example:
            >>> OutputSpec(("label", "logits"), "logits", ("label",), ("ArgMax",)).describe()
            'logits: the logits; label: computed from the logits by ArgMax'
        """
        given = [name for name in self.names if name not in self.derived]
        parts = [f"{name}: the logits" for name in given if name == self.logits]
        if self.derived:
            how = " and ".join(self.head) or "a cast"
            parts.append(f"{', '.join(self.derived)}: computed from the logits by {how}")
        parts += [f"{name}: always taken from the original network" for name in given if name != self.logits]
        return "; ".join(parts)


@dataclass(frozen=True)
class CriterionSpec:
    """A statistic of the test, and the Gaussian null fitted to the values of this statistic on clean inputs.

    Attributes:
        statistic: a key of `mmguard.detection.statistics.STATISTICS`.
        parameters: the statistic's parameters by name, which are the fields of its class: numbers, or tuples of
            numbers.
        power: exponent of the transform that the null applies to the statistic. See
            `mmguard.detection.null.GaussianNull` for this field and the next four.
        scale: number by which the statistic is divided before the transform, in logits.
        mean: mean of the transformed statistic.
        std: standard deviation of the transformed statistic.
        n: number of samples to which the null was fitted.
    """

    statistic: str
    parameters: dict[str, Number | tuple[Number, ...]]
    power: Annotated[float, Meta(ge=0, le=2)]
    scale: Positive
    mean: Number
    std: Positive
    n: Count

    @classmethod
    def of(cls, statistic: str, criterion: Criterion) -> Self:
        """Convert a criterion to the form that is stored in the manifest.

        Args:
            statistic: name of the criterion's statistic, a key of `STATISTICS`.
            criterion: the criterion.

        Returns:
            The criterion as it is stored in the manifest.
        """
        null = criterion.null
        return cls(statistic, asdict(criterion.statistic), null.power, null.scale, null.mean, null.std, null.n)

    def criterion(self) -> Criterion:
        """Return the criterion that these fields describe."""
        null = GaussianNull(self.mean, self.std, self.n, self.power, self.scale)
        parameters: dict[str, Any] = self.parameters  # the statistic's own types are checked in `manifest_checks`
        return Criterion(STATISTICS[self.statistic](**parameters), null)


@dataclass(frozen=True)
class NullSpec:
    """The null distribution and the levels of the test (see `mmguard.detection.mmdf.MmdfTest`).

    Attributes:
        kind: how p-values are computed: `gaussian`, `empirical` or `bounded`.
        n: number of clean inputs to which the null was fitted.
        theta: level of the test.
        disagreement_theta: level for inputs on which the networks disagree.
        criteria: the statistics of the test, each with its null.
        clean_scores: scores (n,) of the clean inputs in ascending order; empty for a gaussian null.
    """

    kind: NullKind
    n: Count
    theta: Annotated[float, Meta(gt=0, le=1)]
    disagreement_theta: Share
    criteria: tuple[CriterionSpec, ...]
    clean_scores: tuple[float, ...]

    def test(self) -> MmdfTest:
        """Return the test that these fields describe."""
        criteria = tuple(spec.criterion() for spec in self.criteria)
        return MmdfTest(criteria, self.theta, self.disagreement_theta, self.kind, self.clean_scores)

    def fitted(self) -> MmdfTest:
        """Return the same test, but with p-values from the fitted Gaussian nulls, regardless of `kind`."""
        return replace(self, kind="gaussian", clean_scores=()).test()


@dataclass(frozen=True)
class CalibrationFigures:
    """Figures that a calibration measured on its calibration set.

    Attributes:
        n: number of clean inputs.
        labelled: whether accuracies are measured against the user's labels; if not, they are measured against the
            original network's decisions.
        original_accuracy: accuracy of the original network, in [0, 1].
        clipped_accuracy: accuracy of the clipped network, in [0, 1].
        agreement: share of the inputs for which both networks make the same decision.
        flagged_share: share of the inputs that the finished test flags.
        original_margins: for each scale of the search for maximum margins, the mean margins (K,), in logits, that the
            search reached on the original network; empty if there was no search.
        clipped_margins: the same for the clipped network, with the same scales as keys.
        audit_cut: scales of the search that its time budget shortened or left out.
        rounds: number of rounds that the calibration ran.
        converged: whether the rounds ended because the objective no longer changed.
    """

    n: Count
    labelled: bool
    original_accuracy: Share
    clipped_accuracy: Share
    agreement: Share
    flagged_share: Share
    original_margins: dict[Text, tuple[Number, ...]]
    clipped_margins: dict[Text, tuple[Number, ...]]
    audit_cut: tuple[Text, ...]
    rounds: Size
    converged: bool

    def margins(self) -> dict[str, FloatArray]:
        """Return the margins (K,) of the original network by scale, as float64 in logits, for the audit."""
        return {scale: np.array(by_class) for scale, by_class in self.original_margins.items()}


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Two calibrations on the same machine with the same model, inputs, options and versions write identical manifests.

    Attributes:
        name: name of the model in metrics and URLs.
        versions: versions of Python and of the packages used for the calibration.
        seed: random seed.
        preset: name of the preset that `settings` are based on, or `custom`.
        settings: all constants of the calibration (see `mmguard.settings.settings.Settings`).
        input: description of the model's input.
        output: description of the model's outputs.
        classes: names (K,) of the classes, in the order of the logits.
        runtime_graphs: relative paths of the ONNX files that the guard runs, under the keys `original`, `clipped` and,
            if there are derived outputs, `head`.
        sites: the clip sites.
        evidence: the sites at which the test reads activations, in the order of the first columns of
            `mmguard_activations`, an output of the original network's runtime graph; empty if the test reads none.
        mirror_axis: axis of the input along which the guard mirrors flagged inputs to look at them again; None if
            mirror images do not keep their labels.
        null: null distribution and levels of the test. None if there is no test; the clipped network is then a
            corrected model whose answers are returned (MMOM).
        calibration: figures measured on the calibration set.
        files: size and hash of every file except the manifest and the provenance, by relative path.
        schema_version: version of this schema.
    """

    name: Name
    versions: dict[Text, Text]
    seed: Size
    preset: Text
    settings: Settings
    input: InputSpec
    output: OutputSpec
    classes: tuple[Text, ...]
    runtime_graphs: dict[str, str]
    sites: tuple[ClipSite, ...]
    evidence: tuple[EvidenceSite, ...]
    mirror_axis: Annotated[int, Meta(ge=1, le=15)] | None
    null: NullSpec | None
    calibration: CalibrationFigures
    files: dict[str, FileEntry]
    schema_version: int = SCHEMA_VERSION

    @property
    def activation_columns(self) -> int:
        """Number of columns of `mmguard_activations`: one per site of `evidence`, and one more; 0 if there are none."""
        return len(self.evidence) + 1 if self.evidence else 0

    def to_json(self) -> str:
        """Return the manifest as JSON, indented by two spaces, with keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, default=_encode, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a manifest.

        Args:
            text: the content of `manifest.json`.

        Returns:
            The manifest, with all fields checked.

        Raises:
            SchemaError: The text is not JSON, the schema version is not supported, or a field is missing, unknown,
                malformed or inconsistent with another field.
        """
        try:
            raw = read_json(text.encode() if isinstance(text, str) else text)
        except ValueError as error:
            raise SchemaError(f"manifest.json cannot be read as JSON: {shortened(error)}") from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION or type(version) is not int:
            raise SchemaError(
                f"manifest.json has schema version {shortened(repr(version))}, but this version of mmguard "
                f"reads version {SCHEMA_VERSION}; calibrate again, or use the version of mmguard that wrote the bundle"
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
    raise TypeError(f"{type(value).__name__} cannot be converted to JSON")


def class_name(name: str) -> str:
    """Check that a class name can be used as a metric label.

    Args:
        name: the class name.

    Returns:
        The same name.

    Raises:
        ValueError: The name cannot be encoded in UTF-8, is empty or has more than 1000 characters.

    Example:
        >>> class_name("cat")
        'cat'
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it cannot be encoded in UTF-8") from error
    if not 1 <= len(name) <= LONGEST:
        raise ValueError(f"it must have 1 to {LONGEST} characters")
    return name
