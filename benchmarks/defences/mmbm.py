"""Activation clipping that preserves the logits and shrinks the bounds directly.

Wang, Xiang, Miller and Kesidis 2022, "MM-BD: Post-training detection of backdoor attacks with arbitrary backdoor
pattern types using a maximum margin statistic", its mitigation ("MM-BM").
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.cifar import Images, Labels
from benchmarks.defences.protocol import Mitigated
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.objective import fit_loss
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.sites import find_activations

BATCH = 500

PUBLISHED = Published(
    source="Maximum Margin Based Activation Clipping for Post-Training Overfitting Mitigation, Table 1",
    setting="CIFAR-10, ResNet-32, BadNet, 50 images per class",
    figures={"clean_accuracy": 0.8912, "attack_success": 0.0149, "triggered_accuracy": 0.8653},
    from_memory=False,
)


@dataclass(frozen=True)
class MmBm:
    """Minimise the mean squared change of the logits on D plus λ times the sum over layers of the bounds' l2 norms.

    Source: Wang et al. 2022: λ starts at 0.1; it is multiplied by 1.2 while the accuracy on D is at least 0.95, and
    divided by 1.2 otherwise. Bounds start too large to clip. Adapted: bounds start at each channel's largest activation
    over D, which is also the unit of the steps; accuracy is agreement with the original network, because the network
    may be wrong on images of D; and the tightest bounds with enough agreement are returned, because the last ones may
    just have lost it. The authors' release has other settings: three clip sites, bounds that start at 8, Adam at 0.1
    for 50 epochs, λ from 0.5 that is updated every tenth epoch, and a D without images that the network gets wrong.

    Attributes:
        per_class: clean images per class.
        epochs: passes over D.
        batch: images per step.
        learning_rate: learning rate of Adam, as a share of a channel's range over D.
        weight: λ at the start.
        factor: factor by which λ changes.
        agreement: agreement with the original network to keep.
    """

    per_class: int = 50
    epochs: int = 100
    batch: int = 100
    learning_rate: float = 0.01
    weight: float = 0.1
    factor: float = 1.2
    agreement: float = 0.95

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Learn the bounds on the calibration set, without its labels."""
        classifier = read_classifier(suspect.path)
        logits = classifier.output.logits
        graph = DifferentiableGraph(classifier.model, logits)
        axes = {each.value: each.axis for each in find_activations(classifier.model, logits)}
        x = _inputs(suspect, clean.x)
        bounds, agreement = self.learn(graph, axes, x, torch.Generator().manual_seed(seed))

        @torch.no_grad()
        def labels(images: Images) -> Labels:
            return _logits(graph, _inputs(suspect, images), bounds).argmax(1).numpy()

        return Mitigated(labels, {"agreement": agreement, "norm": float(norm(bounds))})

    def learn(
        self, graph: DifferentiableGraph, axes: dict[str, int], x: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], float]:
        """Return the tightest bounds, by value name, with enough agreement on x (n, 3, 32, 32), and that agreement."""
        original = _logits(graph, x, None)
        bounds = Bounds.over(graph, axes, iter(x.split(BATCH)))
        optimiser = torch.optim.Adam(bounds.parameters(), lr=self.learning_rate)
        weight, tightest, kept = self.weight, bounds.fixed(), 1.0
        for _ in range(self.epochs):
            for rows in self._batches(len(x), generator):
                optimiser.zero_grad()
                loss = fit_loss(graph(x[rows], bounds()), original[rows]) + weight * norm(bounds())
                torch.autograd.backward(loss)
                optimiser.step()
                bounds.project()
            agreed = float((_logits(graph, x, bounds.fixed()).argmax(1) == original.argmax(1)).float().mean())
            weight *= self.factor if agreed >= self.agreement else 1 / self.factor
            if agreed >= self.agreement and norm(bounds.fixed()) < norm(tightest):
                tightest, kept = bounds.fixed(), agreed
        return tightest, kept

    def _batches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        return iter(torch.randperm(count, generator=generator).split(self.batch))


def norm(bounds: dict[str, Tensor]) -> Tensor:
    """Return the sum over layers of the l2 norms of the bounds, ()."""
    return torch.stack([bound.norm() for bound in bounds.values()]).sum()


@torch.no_grad()
def _logits(graph: DifferentiableGraph, x: Tensor, bounds: dict[str, Tensor] | None) -> Tensor:
    return torch.cat([graph(part, bounds) for part in x.split(BATCH)])


def _inputs(suspect: Suspect, x: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(suspect.exported.inputs(x)))
