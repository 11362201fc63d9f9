"""A model and its clean set, read and checked before anything is learned from them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mmguard.bundle.consistency import require_short
from mmguard.bundle.diagnostics import warn_of_doubtful_labels
from mmguard.calibrate.audit.search import maximum_margins
from mmguard.calibrate.checkpoint.fingerprint import Fingerprint, digest, fingerprint
from mmguard.calibrate.clean_set.clean_set import assign_classes, check_accuracy, check_classes, read_clean
from mmguard.calibrate.clean_set.input_box import declared_input, with_box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.calibrator import Calibrator
from mmguard.detection.null import check_level, check_null_samples
from mmguard.errors import ModelError, NotClassifierError, OptionError, ProviderError
from mmguard.exporter.classifier import Classifier
from mmguard.exporter.sites.activation import Activation
from mmguard.exporter.sites.find import find_activations
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.pipeline.model_checks import look, try_on
from mmguard.settings.settings import Settings
from mmguard.types import FloatArray, IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model and its clean set D, checked and ready to learn from.

    Attributes:
        graph: the network as PyTorch has it, on the device of the calibration.
        x: (N, ...) float32, D. labels: (N,) int64 or None.
        learner: makes the calibrator of clean inputs (N, ...).
        margins: (K,) float64 by scale, maximum margins by class of the network that bounds by value name clip, or with
            None of the original; the other argument is called with the number of inputs of each pass.
    """

    classifier: Classifier
    activations: list[Activation]
    graph: DifferentiableGraph
    input: InputSpec
    x: npt.NDArray[np.float32]
    labels: IntArray | None
    classes: tuple[str, ...]
    learner: Callable[[npt.NDArray[np.float32]], Calibrator]
    margins: Callable[[Mapping[str, npt.NDArray[np.float32]] | None, Callable[[float], None]], dict[str, FloatArray]]

    def fingerprint(self, settings: Settings, seed: int, device: str) -> Fingerprint:
        """What the bounds that are learned depend on; the arguments are the calibration's."""
        sites = {
            "clip sites": digest({}, repr([(each.value, each.axis) for each in self.activations])),
            "logits": self.classifier.scores.value,
        }
        path, spec = self.classifier.path, self.input
        files = [path, *(path.parent / location for location in self.classifier.external_files())]
        return fingerprint(files, self.x, self.labels, (spec.low, spec.high), settings, seed, device) | sites


def prepare(
    model: Path,
    clean: Path,
    settings: Settings,
    logits: str | None,
    sites: str,
    classes: Sequence[str] | None,
    preprocessing: Preprocessing | None,
    seed: int,
    device: str,
    skip_bad: bool,
) -> Subject:
    """Read the model and D, and refuse whatever would make learning pointless."""
    _check_run(seed, device)
    network = look(model, logits)
    _require(network.obstacles)
    classifier, graph = network.classifier, network.graph
    assert graph is not None, "that is an obstacle"
    activations = find_activations(classifier.model, classifier.scores.value, sites)
    spec = declared_input(
        classifier.input_name, classifier.input_shape, preprocessing, clean.is_dir(), classifier.input_dtype
    )
    data = read_clean(clean, spec, skip_bad)
    if settings.objective != "mmom":
        check_null_samples(len(data.x))
        if settings.null == "empirical":
            check_level(settings.theta, len(data.x))
    _require(try_on(network, data.x))
    spec = replace(with_box(spec, data.x), columns=data.columns)
    axes = {activation.value: activation.axis for activation in activations}

    def learner(x: npt.NDArray[np.float32]) -> Calibrator:
        return Calibrator(graph, axes, x, (spec.low, spec.high), settings, seed, device)

    x, original = data.x, learner(data.x).original_logits
    _check_scores(original, classifier.scores.value)
    labels, names = assign_classes(data, original.shape[1], classes)
    _require_short(names)
    if labels is not None:
        check_accuracy(original, labels, named=bool(data.named))
        warn_of_doubtful_labels(float((original.argmax(axis=1) == labels).mean()))
        right = original.argmax(axis=1) == labels
        if settings.only_correct and not right.all():
            check_null_samples(int(right.sum()))
            logger.info("%d clean inputs left out, which the model decides wrongly", int((~right).sum()))
            x, labels = x[right], labels[right]
            if settings.null == "empirical":
                check_level(settings.theta, len(x))
    labelled = labels is not None
    if labelled or settings.objective != "mmom":  # which refuses to learn without labels
        decided = original.argmax(axis=1) if labels is None else labels
        check_classes(decided, names, settings.objective, labelled=labelled)
    logger.info(
        "%d clean inputs, %d skipped; %d classes; %d clip sites",
        *(len(x), len(data.skipped), len(names), len(activations)),
    )

    def margins(
        bounds: Mapping[str, npt.NDArray[np.float32]] | None, on_inputs: Callable[[float], None]
    ) -> dict[str, FloatArray]:
        return maximum_margins(graph, x, (spec.low, spec.high), len(names), bounds, seed, device, on_inputs)

    return Subject(classifier, activations, graph, spec, x, labels, tuple(names), learner, margins)


def _require(obstacles: Sequence[ModelError]) -> None:
    for obstacle in obstacles:
        raise obstacle


def _require_short(names: Sequence[str]) -> None:
    try:
        require_short(names)
    except ValueError as error:
        raise OptionError(str(error)) from error


def _check_run(seed: int, device: str) -> None:

    if not 0 <= seed < 2**63:
        raise OptionError(f"seed must be from 0 to 2^63 - 1, got {seed}")
    if device not in ("cpu", "cuda"):
        raise OptionError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("device cuda was asked for, but this PyTorch finds no CUDA GPU; calibrate on the CPU")


def _check_scores(logits: npt.NDArray[np.float32], name: str) -> None:
    if not (finite := np.isfinite(logits).all(axis=1)).all():
        raise NotClassifierError(
            f"the model gives logits that are NaN or infinite for {int((~finite).sum())} of the {len(logits)} clean "
            f"inputs, the first of them number {int(finite.argmin())} (from 0) of those that were read; mend the model "
            "or leave these inputs out"
        )
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        logger.warning(
            "warning: %r, which is taken for the logits, is at least 0 and sums to 1 for every clean input, as "
            "probabilities do: corrected rows will not; name what they are made of with --logits NAME",
            name,
        )
