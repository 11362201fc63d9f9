"""Check that mmguard can guard a model. `calibrate` and `inspect` report the same obstacles."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest_checks import MAX_CLASSES
from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.plan import refusals
from mmguard.errors import ModelError, NotClassifierError, UnsupportedOperatorError
from mmguard.exporter.add_logits import file_with_logits, with_logits
from mmguard.exporter.batch_independence import check_batch_independence
from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.equality import run
from mmguard.exporter.load import canonical
from mmguard.exporter.other_tasks import multi_label_message
from mmguard.exporter.sites.find import Survey, require_sites, survey
from mmguard.exporter.tolerance import batch_tolerance, tolerance
from mmguard.exporter.trial_export import try_export

logger = logging.getLogger(__name__)

Inputs = npt.NDArray[np.float32]

MAX_TRIED = 32
"""Maximum number of inputs that a model is tried on."""
MAX_TRIED_VALUES = 2**22
"""Maximum total number of values in the inputs that a model is tried on."""
DRAWN = 8
"""Number of random inputs that `mmguard inspect` tries a model on."""
BATCH_EFFECT = 1e-4
"""A warning is logged if the other inputs in a batch change a logit by more than this share of the largest logit."""


@dataclass(frozen=True)
class Network:
    """What is known about a model before it is run on inputs.

    Attributes:
        classifier: the model as read by the exporter.
        named: whether the user passed the name of the logits.
        found: the model's activations: those that can be clipped and those that cannot.
        graph: the model in PyTorch; None if PyTorch cannot run the model. `obstacles` then contains the reason.
        obstacles: reasons why the model cannot be calibrated.
    """

    classifier: Classifier
    named: bool
    found: Survey
    graph: DifferentiableGraph | None
    obstacles: tuple[ModelError, ...]


def look(model: Path, logits: str | None) -> Network:
    """Read a model and collect the obstacles to calibration that can be found without running the model.

    Args:
        model: path of the ONNX file.
        logits: ONNX name of the logits. If None, mmguard searches the model for them.

    Returns:
        The model and the obstacles.

    Raises:
        ModelError: the file is not a classifier that mmguard can read.
        OptionError: `logits` is not the name of a value that could be the logits.
    """
    classifier = _read(model, logits)
    graph, found, obstacles = None, Survey((), ()), list[ModelError]()
    try:
        graph = DifferentiableGraph(with_logits(classifier), classifier.output.logits, widen=True)
    except ModelError as error:
        obstacles.append(error)
    try:
        found = survey(classifier.model, classifier.logits_source.value)
        require_sites(classifier.model, found)
    except ModelError as error:
        obstacles.append(error)
    return Network(classifier, logits is not None, found, graph, tuple(obstacles))


def try_on(network: Network, x: Inputs) -> tuple[ModelError, ...]:
    """Try a model on a few inputs, in every form that calibration needs. The model must have no known obstacles.

    ONNX Runtime must be able to run the model, PyTorch must compute the same logits, the output for an input must not
    depend on the rest of the batch, the logits must not be probabilities, and the networks of a bundle must compute the
    same logits.

    Args:
        network: the model.
        x: (N, ...) float32 inputs; up to 32 of them are tried.

    Returns:
        A tuple that contains the first obstacle; an empty tuple if there is no obstacle.
    """
    try:
        _run(network, x[: max(1, min(MAX_TRIED, MAX_TRIED_VALUES // x[0].size))])
    except ModelError as error:
        return (error,)
    return ()


def drawn_inputs(classifier: Classifier) -> Inputs | None:
    """Draw random inputs for a model.

    Args:
        classifier: the model.

    Returns:
        Inputs (n, ...) float32, with values from 0 to 1, or whole numbers from 0 to 255 for a uint8 model. None if the
        shape of the model's input is dynamic or very large.
    """
    shape = [size for size in classifier.input_shape[1:] if size is not None]
    values = math.prod(shape)
    if len(shape) < len(classifier.input_shape) - 1 or values > MAX_TRIED_VALUES:
        return None
    n = min(DRAWN, MAX_TRIED_VALUES // values)
    x = np.random.default_rng(0).random((n, *shape), np.float32)
    return np.floor(256 * x) if classifier.input_dtype == "uint8" else x


def _read(model: Path, logits: str | None) -> Classifier:
    """Read a classifier. If this fails and the model has unsupported operators, raise an error that lists them."""
    try:
        return read_classifier(model, logits)
    except NotClassifierError as error:
        if not (reasons := refusals(canonical(model))):
            raise
        raise UnsupportedOperatorError(f"mmguard cannot guard {model}: {'; '.join(reasons)}") from error


def _run(network: Network, few: Inputs) -> None:
    classifier, graph = network.classifier, network.graph
    assert graph is not None, "a model that PyTorch cannot run has an obstacle and is not tried"
    with file_with_logits(classifier) as path:
        allowed = tolerance(classifier.model)
        few = _finite(few, partial(run, path, name=classifier.output.logits))
        assert_matches_onnxruntime(graph, path, few, classifier.output.logits, allowed)
        effect = check_batch_independence(path, few, classifier.output, batch_tolerance(classifier.model))
        logits = run(path, few, classifier.output.logits)
    _require_logits(network, logits)
    if np.isfinite(logits).all():  # non-finite logits are reported later, after a run on all inputs
        try_export(classifier, network.found.sites, few, allowed)
    if effect > BATCH_EFFECT:
        logger.warning(
            "warning: the model's logits depend slightly on the other inputs in the batch: the logits change by up "
            "to %.2g times the largest logit. The guard's p-values therefore depend on the batch too. This happens if "
            "the model quantises values by their range in each batch (DynamicQuantizeLinear); to avoid this, use "
            "batches of one input",
            effect,
        )


def _finite(few: Inputs, run: Callable[[Inputs], Inputs]) -> Inputs:
    """Return the inputs whose logits are finite, or all inputs if no input has finite logits."""
    try:
        logits = run(few)
    except Exception:  # the comparison with ONNX Runtime reports this error
        return few
    if len(logits) != len(few):
        return few
    finite = np.isfinite(logits).reshape(len(few), -1).all(axis=1)
    return few[finite] if finite.any() else few  # non-finite logits are reported later, after a run on all inputs


def _require_logits(network: Network, logits: Inputs) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise NotClassifierError(
            f"for {len(logits)} inputs, expected logits of shape ({len(logits)}, K) with K ≥ 2, but the "
            f"model returns shape {logits.shape}; pass --logits with the name of the value that contains the logits"
        )
    if logits.shape[1] > MAX_CLASSES:
        raise ModelError(f"the model has {logits.shape[1]} classes; mmguard supports up to {MAX_CLASSES}")
    if not network.named:
        _refuse_sigmoids(logits, network.classifier.logits_source.value)


def _refuse_sigmoids(logits: Inputs, name: str) -> None:
    """Reject a model whose outputs look like one sigmoid per class. The graph is not examined."""
    # a sigmoid built from arithmetic operators cannot be recognised in the graph
    if not np.isfinite(logits).all() or logits.min() < 0 or logits.max() > 1:
        return
    if not np.allclose(logits.sum(axis=1), 1, atol=1e-3) and ((logits > 0.5).sum(axis=1) != 1).any():
        raise NotClassifierError(multi_label_message(name, "its input", f"--logits {name}"))
