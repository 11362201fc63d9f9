"""What a network must be before anything is learned from it: the obstacles that `calibrate` and `inspect` both name."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.bundle.consistency import MAX_CLASSES
from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.plan import refusals
from mmguard.errors import ModelError, NotClassifierError, UnsupportedOperatorError
from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.equality import run
from mmguard.exporter.labels import multi_label
from mmguard.exporter.load import canonical
from mmguard.exporter.logits import scored, scored_file
from mmguard.exporter.rows import require_rows
from mmguard.exporter.sites.find import Survey, require_sites, survey
from mmguard.exporter.tolerance import batch_tolerance, tolerance
from mmguard.exporter.trial import require_export

logger = logging.getLogger(__name__)

Inputs = npt.NDArray[np.float32]

TRIED, TRIED_NUMBERS = 32, 2**22
"""Inputs, and numbers in them, on which a network is tried, at most."""
WORTH_A_WORD = 1e-4
"""Share of the largest answer by which batches may change another before it is warned of."""


@dataclass(frozen=True)
class Network:
    """A model as it is seen without inputs.

    Attributes:
        named: whether the user named the logits.
        found: its activations. graph: as PyTorch has it; None where that is an obstacle.
        obstacles: why it cannot be calibrated, the first reason first.
    """

    classifier: Classifier
    named: bool
    found: Survey
    graph: DifferentiableGraph | None
    obstacles: tuple[ModelError, ...]


def look(model: Path, logits: str | None) -> Network:
    """Read a model and see what of it can be guarded.

    Args:
        model: ONNX file. logits: ONNX name of the logits; None finds them.

    Raises:
        ModelError: it cannot be read as a classifier.
        OptionError: `logits` names no value that could be logits.
    """
    classifier = _read(model, logits)
    graph, found, obstacles = None, Survey((), ()), list[ModelError]()
    try:
        graph = DifferentiableGraph(scored(classifier), classifier.output.logits, widen=True)
    except ModelError as error:
        obstacles.append(error)
    try:
        found = survey(classifier.model, classifier.scores.value)
        require_sites(classifier.model, found)
    except ModelError as error:
        obstacles.append(error)
    return Network(classifier, logits is not None, found, graph, tuple(obstacles))


def try_on(network: Network, x: npt.NDArray[np.float32]) -> tuple[ModelError, ...]:
    """Run a model that has no obstacle yet on inputs: ONNX Runtime must run it, mmguard's own form of it must be equal,
    it must answer each input by itself, the answers must be logits, and what a bundle holds of it must be equal.

    Args:
        x: (N, ...) float32 inputs, of which some are tried.

    Returns:
        The first obstacle, if there is one.
    """
    try:
        _run(network, x[: max(1, min(TRIED, TRIED_NUMBERS // x[0].size))])
    except ModelError as error:
        return (error,)
    return ()


def drawn_inputs(classifier: Classifier) -> npt.NDArray[np.float32] | None:
    """Random inputs (N, ...) from 0 to 1, or whole ones to 255; None where they are large or of no one shape."""
    shape = [size for size in classifier.input_shape[1:] if size is not None]
    numbers = math.prod(shape)
    if len(shape) < len(classifier.input_shape) - 1 or numbers > TRIED_NUMBERS:
        return None
    n = min(8, TRIED_NUMBERS // numbers)
    x = np.random.default_rng(0).random((n, *shape), np.float32)
    return np.floor(256 * x) if classifier.input_dtype == "uint8" else x


def _read(model: Path, logits: str | None) -> Classifier:
    """`read_classifier`, but where no classifier is found, operators that no guard can take are the reason."""
    try:
        return read_classifier(model, logits)
    except NotClassifierError as error:
        if not (reasons := refusals(canonical(model))):
            raise
        raise UnsupportedOperatorError(f"{model} cannot be guarded: {'; '.join(reasons)}") from error


def _run(network: Network, few: npt.NDArray[np.float32]) -> None:

    classifier, graph = network.classifier, network.graph
    assert graph is not None, "that is an obstacle already"
    with scored_file(classifier) as path:
        allowed = tolerance(classifier.model)
        few = _finite(few, partial(run, path, name=classifier.output.logits))
        assert_matches_onnxruntime(graph, path, few, classifier.output.logits, allowed)
        change = require_rows(path, few, classifier.output, batch_tolerance(classifier.model))
        logits = run(path, few, classifier.output.logits)
    _require_logits(network, logits)
    if np.isfinite(logits).all():  # else the clean inputs are at fault, and are named later
        require_export(classifier, network.found.sites, few, allowed)
    if change > WORTH_A_WORD:
        logger.warning(
            "warning: the model's answers, and so the guard's p-values, depend a little on what else is in the batch: "
            "by up to %.2g times the largest logit, as where it quantises by the range of each batch "
            "(DynamicQuantizeLinear); in batches of one input they do not",
            change,
        )


def _finite(few: Inputs, run: Callable[[Inputs], Inputs]) -> Inputs:
    """The inputs whose logits are finite, if there are any: others overflow, and are named once all inputs are run."""
    try:
        logits = run(few)
    except Exception:  # what stops ONNX Runtime is said by the comparison with it
        return few
    if len(logits) != len(few):
        return few
    finite = np.isfinite(logits).reshape(len(few), -1).all(axis=1)
    return few[finite] if finite.any() else few


def _require_logits(network: Network, logits: npt.NDArray[np.float32]) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise NotClassifierError(
            f"the model gives logits of shape {logits.shape} for {len(logits)} inputs; a classifier gives "
            f"({len(logits)}, K), K at least 2"
        )
    if logits.shape[1] > MAX_CLASSES:
        raise ModelError(f"the model has {logits.shape[1]} classes; mmguard takes models of up to {MAX_CLASSES}")
    if not network.named:
        _refuse_probabilities(logits, network.classifier.scores.value)


def _refuse_probabilities(logits: npt.NDArray[np.float32], name: str) -> None:
    """Sigmoids of each class that are written out by their formula, so that the graph does not show them."""
    if not np.isfinite(logits).all() or logits.min() < 0 or logits.max() > 1:
        return
    if not np.allclose(logits.sum(axis=1), 1, atol=1e-3) and ((logits > 0.5).sum(axis=1) != 1).any():
        raise NotClassifierError(multi_label(name, "what it is made of", f"--logits {name}"))
