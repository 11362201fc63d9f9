"""Read and check the model and the calibration set: everything that happens before bounds are learned."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mmguard.bundle.diagnostics import warn_of_doubtful_labels
from mmguard.bundle.manifest_checks import require_short
from mmguard.calibrate.audit.plan import TimeBudget
from mmguard.calibrate.audit.search import Found, maximum_margins
from mmguard.calibrate.box import Box
from mmguard.calibrate.checkpoint.fingerprint import Fingerprint, digest, fingerprint
from mmguard.calibrate.clean_set.input_box import declared_input, with_box
from mmguard.calibrate.clean_set.labels import assign_classes, check_accuracy, check_classes
from mmguard.calibrate.clean_set.read import CleanSet, read_clean
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.logits import logits_on
from mmguard.calibrate.learning.calibrator import Calibrator
from mmguard.calibrate.learning.descent import largest_pass
from mmguard.detection.null import check_level, check_null_samples
from mmguard.errors import ModelError, NotClassifierError, OptionError, ProviderError
from mmguard.exporter.classifier import Classifier
from mmguard.exporter.sites.activation import Activation
from mmguard.exporter.sites.find import find_activations
from mmguard.inputs.spec import InputSpec
from mmguard.pipeline.clean_source import CleanSource
from mmguard.pipeline.model_checks import Network, look, try_on
from mmguard.pipeline.request import Request
from mmguard.settings import Settings
from mmguard.types import IntArray

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]
Bounds = Mapping[str, Array]
PROBABILITY_TOLERANCE = 1e-3
"""Maximum difference between 1 and the sum of an input's probabilities."""


@dataclass(frozen=True)
class PreparedCalibration:
    """A model and its calibration set, checked and ready for calibration.

    Attributes:
        request: the options of the calibration.
        classifier: the model as read by the exporter.
        activations: the clip sites.
        graph: the model in PyTorch, on the device of the calibration.
        input: the model's input and its box.
        box: the input box, on the device of the calibration.
        x: (N, ...) float32, the calibration set D.
        original_logits: logits of the original network on D, (N, K) float32.
        labels: labels of D, (N,) int64; None if D has no labels.
        classes: class names in the order of the outputs.
    """

    request: Request
    classifier: Classifier
    activations: tuple[Activation, ...]
    graph: DifferentiableGraph
    input: InputSpec
    box: Box
    x: Array
    original_logits: Array
    labels: IntArray | None
    classes: tuple[str, ...]

    @property
    def axes(self) -> dict[str, int]:
        """Channel axis of each clip site, by the ONNX name of its value."""
        return {site.value: site.axis for site in self.activations}

    def calibrator(self, x: Array, original_logits: Array | None) -> Calibrator:
        """Return a calibrator that learns bounds from the given clean inputs.

        Args:
            x: (N, ...) float32, the whole of D or a part of D.
            original_logits: logits of the original network on x, (N, K) float32; if None, they are computed.
        """
        request = self.request
        return Calibrator(self.graph, self.axes, x, self.box, request.settings, request.seed, original_logits)

    def maximum_margins(
        self,
        bounds: Bounds | None,
        on_inputs: Callable[[float], None],
        budget: TimeBudget | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> Found:
        """Search for the maximum margin of every class, for the audit.

        Args:
            bounds: bounds by value name; None searches the original network.
            on_inputs: called with the number of inputs in each pass.
            budget: limit of the time; None for no limit.
            shares: share of the steps to take, by scale, instead of a budget.

        Returns:
            The margins by scale.
        """
        seed, classes = self.request.seed, len(self.classes)
        return maximum_margins(self.graph, self.x, self.box, classes, bounds, seed, on_inputs, budget, shares)

    def fingerprint(self) -> Fingerprint:
        """Return a fingerprint of everything that the bounds depend on, to compare with a checkpoint's fingerprint."""
        request, classifier = self.request, self.classifier
        files = [classifier.path, *(classifier.path.parent / location for location in classifier.external_files)]
        box = (self.input.low, self.input.high)
        own = fingerprint(files, self.x, self.labels, box, request.settings, request.seed, request.device)
        sites = digest({}, repr([(site.value, site.axis) for site in self.activations]))
        return own | {"clip sites": sites, "logits": classifier.logits_source.value}


def prepare(request: Request, model: Path, source: CleanSource) -> PreparedCalibration:
    """Read the model and the calibration set, and raise an error if calibration would fail or be useless.

    Args:
        request: the options of the calibration.
        model: path of the ONNX file.
        source: the calibration set.

    Returns:
        The model and the calibration set, ready for calibration.

    Raises:
        ModelError: mmguard cannot guard the model.
        InputError: the calibration set cannot be used.
        OptionError: an option does not fit the model or the calibration set.
        ProviderError: `device` is `cuda` and PyTorch finds no GPU.
    """
    _check_device(request.device)
    network = look(model, request.logits)
    _require_none(network.obstacles)
    classifier, graph = network.classifier, network.graph
    assert graph is not None, "if PyTorch cannot run the model, an obstacle has already been raised"
    activations = find_activations(classifier.model, classifier.logits_source.value, request.sites)
    data, spec = _read_inputs(request, network, source)
    box = Box.of(spec.low, spec.high, request.device)
    most = largest_pass(request.settings)
    x, original = data.x, logits_on(graph, data.x, request.device, most)
    _check_logits(original, classifier.logits_source.value)
    labels, classes = assign_classes(data, original.shape[1], request.classes)
    _check_class_names(classes)
    if labels is not None:
        check_accuracy(original, labels, named=bool(data.named))
        right = original.argmax(axis=1) == labels
        warn_of_doubtful_labels(float(right.mean()))
        if request.settings.only_correct and not right.all():
            logger.info("skipping %d clean inputs that the model misclassifies", int((~right).sum()))
            x, labels = x[right], labels[right]
            _check_size(len(x), request.settings)
            original = logits_on(graph, x, request.device, most)
    _check_coverage(original, labels, classes, request.settings)
    logger.info(
        "%d clean inputs, %d skipped; %d classes; %d clip sites",
        *(len(x), len(data.skipped), len(classes), len(activations)),
    )
    found = tuple(activations)
    return PreparedCalibration(request, classifier, found, graph, spec, box, x, original, labels, tuple(classes))


def _read_inputs(request: Request, network: Network, source: CleanSource) -> tuple[CleanSet, InputSpec]:
    """Read the calibration set, try the model on it, and use the data's range as the input box if no box is set."""
    classifier = network.classifier
    name, shape, dtype = classifier.input_name, classifier.input_shape, classifier.input_dtype
    spec = declared_input(name, shape, request.preprocessing, source.is_folder, dtype)
    data = read_clean(source.folder or source.inputs(dtype), spec, request.skip_bad)
    _check_size(len(data.x), request.settings)
    _require_none(try_on(network, data.x))
    return data, replace(with_box(spec, data.x), columns=data.columns)


def _require_none(obstacles: Sequence[ModelError]) -> None:
    for obstacle in obstacles:
        raise obstacle


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("device is cuda, but PyTorch finds no CUDA GPU; use device cpu")


def _check_size(n: int, settings: Settings) -> None:
    """Check that there are enough clean inputs for the null."""
    if settings.objective == "mmom":
        return
    check_null_samples(n)
    if settings.null == "empirical":
        check_level(settings.theta, n)


def _check_class_names(names: Sequence[str]) -> None:
    try:
        require_short(names)
    except ValueError as error:
        raise OptionError(str(error)) from error


def _check_coverage(
    original: npt.NDArray[np.float32], labels: IntArray | None, classes: Sequence[str], settings: Settings
) -> None:
    """Warn about classes without clean inputs; for MMOM, raise an error. A later check rejects MMOM without labels."""
    if labels is not None or settings.objective != "mmom":
        decided = original.argmax(axis=1) if labels is None else labels
        check_classes(decided, classes, settings.objective, labelled=labels is not None)


def _check_logits(logits: npt.NDArray[np.float32], name: str) -> None:
    """Check that the original network's logits (N, K) on D are finite, and warn if they look like probabilities."""
    if not (finite := np.isfinite(logits).all(axis=1)).all():
        raise NotClassifierError(
            f"the model's logits are NaN or infinite for {int((~finite).sum())} of the {len(logits)} clean inputs, "
            f"the first at index {int(finite.argmin())}; fix the model or remove these inputs"
        )
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=PROBABILITY_TOLERANCE):
        logger.warning(
            "warning: %r, which mmguard treats as the logits, looks like probabilities: for every clean input, "
            "the values are at least 0 and sum to 1. The values of inputs that the guard corrects will not sum to 1; "
            "pass --logits with the name of the value that the probabilities are computed from",
            name,
        )
