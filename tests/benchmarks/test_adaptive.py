"""Attacks by someone who holds the bundle, on the tiny network."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import adaptive
from benchmarks.adaptive import SHAPES, TARGET, Attacker
from benchmarks.cells import Bed
from benchmarks.suspect import CleanSet, Suspect
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.sites import find_activations


class Held:
    """A bundle of which only the bounds are read: the ranges over D."""

    def __init__(self, suspect: Suspect, clean: CleanSet) -> None:
        classifier = read_classifier(suspect.path)
        logits = classifier.output.logits
        axes = {each.value: each.axis for each in find_activations(classifier.model, logits)}
        graph = DifferentiableGraph(classifier.model, logits)
        x = torch.from_numpy(suspect.exported.inputs(clean.x))
        self.fitted = {value: bound.numpy() for value, bound in Bounds.over(graph, axes, iter([x])).fixed().items()}

    def bounds(self) -> dict[str, NDArray[np.float32]]:
        return self.fitted


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_what_is_learnt_raises_the_target_s_logit_within_what_may_change(
    suspect: Suspect, clean: CleanSet, monkeypatch: pytest.MonkeyPatch, shape: adaptive.Shape
) -> None:
    monkeypatch.setattr(adaptive, "STEPS", 20)
    bed = Bed(suspect, clean, clean.x, clean.y)
    changed = Attacker(Held(suspect, clean), bed).learn(shape, clean.x)(clean.x)  # type: ignore[arg-type]
    moved = np.abs(changed.astype(int) - clean.x)
    if "patch" in shape.name:
        side = int(shape.name.split()[2])
        assert moved[:, :-side].max() == moved[:, :, :-side].max() == 0
    else:
        assert moved.max() <= int(shape.name.split("/")[0].split()[-1])

    def margin(x: NDArray[np.uint8]) -> float:
        logits = suspect.logits(x)
        return float((logits[:, TARGET] - np.delete(logits, TARGET, axis=1).max(axis=1)).mean())

    assert margin(changed) > margin(clean.x)
