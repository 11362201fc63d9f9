"""Ways to write a PyTorch network as ONNX, and what mmguard makes of each file."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import mmguard
from mmguard import Bundle, Guard
from mmguard.calibrate.audit import search as audit_search
from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.errors import MmguardError
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.logits import scored, scored_file
from mmguard.exporter.sites import find_activations
from mmguard.guard.verify import verify_bundle
from mmguard.settings.presets import DEFAULT, PRESETS

Array = NDArray[np.float32]

INPUTS, CLEAN = 4, 25
AUDIT = {"ALONE": 2, "SHARING": 2, "JUDGED": 2, "ALONE_STEPS": 2, "SHARED_STEPS": 2, "PLACING_STEPS": 2}
"""Inputs a class of the audit's search, and its steps."""
BOUND = 0.5
"""Share of a channel's range over a few inputs where gradients are looked at."""


@dataclass(frozen=True)
class Way:
    """An exporter of PyTorch's and the opset that it is asked for; `dynamo` is the one built on torch.export."""

    dynamo: bool
    opset: int

    @property
    def name(self) -> str:
        """For the record."""
        return f"{'dynamo' if self.dynamo else 'TorchScript'}, opset {self.opset}"


WAYS = (Way(False, 13), Way(False, 17), Way(False, 20), Way(True, 18), Way(True, 23))


def export(network: nn.Module, shape: tuple[int, ...], way: Way, path: Path) -> None:
    """Write the network with a dynamic batch axis; whatever the exporter raises."""
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
    """Random inputs (n, ...) float32."""
    return np.random.default_rng(n).normal(size=(n, *shape)).astype(np.float32)


def judge(path: Path, x: Array) -> dict[str, object]:
    """Whether a file equals ONNX Runtime within 1e-4 relative, and has a finite gradient, not 0, at every clip site.

    Raises:
        MmguardError: it does not, or cannot be read.
    """
    classifier = read_classifier(path)
    sites = find_activations(classifier.model, classifier.scores.value)
    graph = DifferentiableGraph(scored(classifier), classifier.output.logits)
    with scored_file(classifier) as file:
        assert_matches_onnxruntime(graph, file, x, classifier.output.logits)
    dead = dead_sites(graph, {site.value: site.axis for site in sites}, torch.from_numpy(x))
    return {
        "operators": sorted({node.op_type for node in classifier.model.graph}),
        "sites": sorted(site.operator for site in sites),
        "dead_sites": dead,
    }


def dead_sites(graph: DifferentiableGraph, axes: dict[str, int], x: torch.Tensor) -> list[str]:
    """Sites whose bound has no gradient, or one that is not finite: neither among all bounds nor alone.

    Bounds on what comes later may hide an earlier one.
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
    """`yes` where a file goes through calibrate (two short rounds, short audit), verify and guard; else the reason."""
    np.save(folder / "clean.npy", x)
    for name, value in AUDIT.items():
        setattr(audit_search, name, value)
    PRESETS["survey"] = replace(DEFAULT, rounds=2, steps=1)
    try:
        bundle = mmguard.calibrate_model(path, folder / "clean.npy", out=folder / "network.mmguard", preset="survey")
        verify_bundle(Bundle.open(bundle), ["CPUExecutionProvider"])
        with Guard(bundle, registry=None) as guard:
            decision = guard(x[:INPUTS])
    except MmguardError as error:
        return f"{type(error).__name__}: {error}"
    return "yes" if np.isfinite(decision.p_values).all() else "p-values that are not finite"
