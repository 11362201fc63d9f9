"""Export PyTorch networks to ONNX in several ways, and try mmguard on each file."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import mmguard
from mmguard import Guard
from mmguard.calibrate.audit import plan
from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.errors import MmguardError
from mmguard.exporter.add_logits import file_with_logits, with_logits
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.sites import find_activations
from mmguard.guard.verify import verify_bundle
from mmguard.settings import preset

Array = NDArray[np.float32]

INPUTS, CLEAN = 4, 25
COUNTS, STEPS = ("ALONE", "APART", "SHARING", "JUDGED"), ("ALONE_STEPS", "APART_STEPS", "SHARED_STEPS", "PLACING_STEPS")
AUDIT = dict.fromkeys((*COUNTS, *STEPS), 2)
"""Inputs per class of the audit's search, and its steps."""
BOUND = 0.5
"""Bound for the gradient check, as a share of a channel's range over a few inputs."""


@dataclass(frozen=True)
class Way:
    """A PyTorch exporter and a target opset; `dynamo` is the exporter built on torch.export."""

    dynamo: bool
    opset: int

    @property
    def name(self) -> str:
        """Name for the record."""
        return f"{'dynamo' if self.dynamo else 'TorchScript'}, opset {self.opset}"


WAYS = (Way(False, 13), Way(False, 17), Way(False, 20), Way(True, 18), Way(True, 23))


def export(network: nn.Module, shape: tuple[int, ...], way: Way, path: Path) -> None:
    """Write the network with a dynamic batch axis. Raises whatever the exporter raises."""
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    dynamic: dict[str, Any]
    if way.dynamo:
        dynamic = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    else:
        dynamic = {"dynamic_axes": {"x": {0: "batch"}, "logits": {0: "batch"}}}
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(
            network,
            (x,),
            str(path),
            input_names=["x"],
            output_names=["logits"],
            opset_version=way.opset,
            dynamo=way.dynamo,
            external_data=False,
            verbose=False,
            **dynamic,
        )


def noise(shape: tuple[int, ...], n: int) -> Array:
    """Draw random inputs (n, ...) float32."""
    return np.random.default_rng(n).normal(size=(n, *shape)).astype(np.float32)


def judge(path: Path, x: Array) -> dict[str, object]:
    """Check that mmguard's graph of a file matches ONNX Runtime within 1e-4 relative, and that gradients are usable.

    Returns:
        The operators, the clip sites, and the sites whose gradient is 0 or not finite.

    Raises:
        MmguardError: the results differ, or the file cannot be read.
    """
    classifier = read_classifier(path)
    sites = find_activations(classifier.model, classifier.logits_source.value)
    graph = DifferentiableGraph(with_logits(classifier), classifier.output.logits)
    with file_with_logits(classifier) as file:
        assert_matches_onnxruntime(graph, file, x, classifier.output.logits)
    dead = dead_sites(graph, {site.value: site.axis for site in sites}, torch.from_numpy(x))
    return {
        "operators": sorted({node.op_type for node in classifier.model.graph}),
        "sites": sorted(site.operator for site in sites),
        "dead_sites": dead,
    }


def dead_sites(graph: DifferentiableGraph, axes: dict[str, int], x: torch.Tensor) -> list[str]:
    """Return the sites whose bound has no finite, non-zero gradient, neither with all other bounds nor alone.

    A site is also tried alone, because bounds further on may hide it.
    """
    with torch.no_grad():
        bounds = {value: _half(activation, axes[value]) for value, activation in graph.record(x, tuple(axes)).items()}
    return [
        value for value in _without_gradient(graph, x, bounds) if _without_gradient(graph, x, {value: bounds[value]})
    ]


def _half(activation: torch.Tensor, axis: int) -> torch.Tensor:
    over = [each for each in range(activation.ndim) if each != axis % activation.ndim]
    low, high = activation.amin(over, keepdim=True)[0], activation.amax(over, keepdim=True)[0]
    return low + BOUND * (high - low)


def _without_gradient(graph: DifferentiableGraph, x: torch.Tensor, bounds: dict[str, torch.Tensor]) -> list[str]:
    free = {value: bound.clone().requires_grad_() for value, bound in bounds.items()}
    graph(x, free).square().sum().backward()
    gradients = {value: bound.grad for value, bound in free.items()}
    return [
        value
        for value, gradient in gradients.items()
        if gradient is None or not gradient.isfinite().all() or not gradient.abs().sum() > 0
    ]


def guarded(path: Path, x: Array, folder: Path) -> str:
    """Return `yes` if calibrate (two short rounds, short audit), verify and guard work on a file, else the reason."""
    np.save(folder / "clean.npy", x)
    for name, value in AUDIT.items():
        setattr(plan, name, value)
    settings = replace(preset(), rounds=2, steps=1)
    try:
        bundle = mmguard.calibrate_model(path, folder / "clean.npy", out=folder / "network.mmguard", settings=settings)
        verify_bundle(bundle)
        with Guard(bundle, registry=None) as guard:
            decision = guard(x[:INPUTS])
    except MmguardError as error:
        return f"{type(error).__name__}: {error}"
    return "yes" if np.isfinite(decision.p_values).all() else "p-values that are not finite"
