"""Unlearn the perturbation that fools the network on all images at once.

Zeng, Chen, Park, Mao, Jin and Jia 2022, "Adversarial unlearning of backdoors via implicit hypergradient" (ICLR),
"I-BAU".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.defences.protocol import Mitigated
from benchmarks.defences.training import Batch, batches, copy_of, device, labels_of
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect

PUBLISHED = Published(
    source="the authors' release for Zeng et al. 2022 (github.com/YiZeng623/I-BAU), output of its CIFAR-10 notebook",
    setting=(
        "CIFAR-10, a VGG of 6 convolutions, BadNets with a white 4x4 square to one target, 20 % poisoned; 5,000 clean "
        "test images, one round; attack success counts images of the target class as well, so that 0.1 is chance"
    ),
    figures={
        "clean_accuracy_before": 0.8494,
        "attack_success_before": 0.9764,
        "clean_accuracy": 0.8308,
        "attack_success": 0.0936,
    },
    from_memory=False,
)

Loss = Callable[[Tensor], Tensor]
"""Takes the perturbation and returns a loss () that depends on the weights too."""


@dataclass(frozen=True)
class IBau:
    """Minimise over θ the maximum over δ, ||δ||_2 <= C, of the mean cross-entropy of f_θ(x + δ) over D.

    Source: Zeng et al. 2022, equation 1 and algorithm 1, with the settings of the authors' release for CIFAR-10. In
    each round, δ starts at 0 and ascends; then θ descends along the gradient of the loss at δ(θ), the implicit
    hypergradient. Fixed-point iterations find how δ moves with θ (Grazzi et al. 2020). Batch norm keeps its statistics
    throughout. In the outer loss, the equation adds δ to all images and the release to one in a hundred. We follow the
    release, because with δ on all images nothing preserves the accuracy on clean images. Both loops use the labels of
    D, as in the equation; the release ascends away from the network's decisions.

    Adapted: with 50 images per class, a pass over D has a tenth of the steps of their 5,000 images, so passes over D
    are repeated until there are as many steps, 50. There is one round, as in the release's CIFAR-10 notebook (its
    script has 5), because with so few images each further round costs accuracy. The fixed point is that of the current
    batch; the release uses the first batch.

    Attributes:
        per_class: clean images per class.
        rounds: number of rounds of both loops.
        steps: steps of each loop in a round.
        batch: images per step.
        ascent: learning rate of δ, by plain gradient ascent.
        radius: C, with pixels scaled to [0, 1].
        penalty: weight of ||δ||_2^2 in the inner loss.
        iterations: K of the fixed point.
        inner_step: step of the gradient map with the fixed point δ.
        share: share of a batch that is perturbed in the outer loss.
        learning_rate: learning rate of θ, by Adam.
    """

    per_class: int = 100
    rounds: int = 1
    steps: int = 50
    batch: int = 100
    ascent: float = 10.0
    radius: float = 10.0
    penalty: float = 1e-3
    iterations: int = 5
    inner_step: float = 0.1
    share: float = 0.01
    learning_rate: float = 1e-3

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Alternate both loops; note the norm of δ after the ascent of each round."""
        generator = np.random.default_rng(seed)
        module = copy_of(suspect)
        optimiser = torch.optim.Adam(module.parameters(), lr=self.learning_rate)
        norms: list[float] = []
        for _ in range(self.rounds):
            delta = self.climb(module, self.stream(clean, generator))
            norms.append(float(delta.norm()))
            self.unlearn(module, delta, self.stream(clean, generator), optimiser, generator)
        return Mitigated(labels_of(module), {"perturbation_norms": norms})

    def stream(self, clean: CleanSet, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield as many batches as there are steps, in repeated passes over the calibration set."""
        left = self.steps
        while left:
            for batch, _ in zip(batches(clean, self.batch, generator), range(left), strict=False):
                left -= 1
                yield batch

    def climb(self, module: nn.Module, of: Iterator[Batch]) -> Tensor:
        """Find the perturbation (1, 3, 32, 32), starting from 0."""
        delta = torch.zeros(1, 3, 32, 32, device=device())
        for batch in of:
            (slope,) = torch.autograd.grad(self.inner(module, batch)(delta.requires_grad_()), delta)
            delta = delta.detach() - self.ascent * slope
        return delta * min(1.0, self.radius / float(delta.norm()))

    def unlearn(
        self,
        module: nn.Module,
        delta: Tensor,
        of: Iterator[Batch],
        optimiser: torch.optim.Optimizer,
        generator: np.random.Generator,
    ) -> None:
        """Take a step of the weights along the hypergradient for each batch."""
        weights = list(module.parameters())
        for batch in of:
            rows = generator.permutation(len(batch[1]))[: max(1, round(self.share * len(batch[1])))]
            perturbed = torch.zeros(len(batch[1]), 1, 1, 1, device=device())
            perturbed[torch.from_numpy(rows)] = 1
            losses = self.inner(module, batch), outer(module, batch, perturbed)
            gradient = hypergradient(*losses, delta, weights, self.inner_step, self.iterations)
            for weight, slope in zip(weights, gradient, strict=True):
                weight.grad = slope
            optimiser.step()

    def inner(self, module: nn.Module, batch: Batch) -> Loss:
        """Return the loss that δ minimises: minus the cross-entropy of all images with δ, plus the penalty."""
        x, y = batch
        return lambda delta: self.penalty * delta.square().sum() - nn.functional.cross_entropy(module(x + delta), y)


def outer(module: nn.Module, batch: Batch, perturbed: Tensor) -> Loss:
    """Return the loss that θ minimises: the cross-entropy with δ on images for which `perturbed` (B, 1, 1, 1) is 1."""
    x, y = batch
    return lambda delta: nn.functional.cross_entropy(module(x + perturbed * delta), y)


def hypergradient(
    inner: Loss, outer: Loss, delta: Tensor, weights: Sequence[Tensor], step: float, iterations: int
) -> list[Tensor]:
    """Return the gradient of outer(δ(θ), θ) with respect to θ, where δ(θ) minimises inner(δ, θ).

    The gradient map Φ(δ, θ) = δ - step ∂inner/∂δ has the fixed point δ(θ). The gradient is ∂outer/∂θ + (∂Φ/∂θ)ᵀ v,
    where v = (∂Φ/∂δ)ᵀ v + ∂outer/∂δ is iterated from 0.

    Args:
        inner: inner loss of δ.
        outer: outer loss of δ, with the same weights.
        delta: δ(θ), of any shape.
        weights: θ, with `requires_grad`.
        step: step of the gradient map.
        iterations: iterations for v; their limit is exact if the map contracts.

    Returns:
        One tensor per weight.
    """
    delta = delta.detach().requires_grad_()
    first, *direct = torch.autograd.grad(outer(delta), [delta, *weights], materialize_grads=True)
    (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    moved = delta - step * slope
    v = torch.zeros_like(delta)
    for _ in range(iterations):
        v = torch.autograd.grad(moved, delta, v, retain_graph=True)[0] + first
    indirect = torch.autograd.grad(moved, weights, v, materialize_grads=True)
    return [one + two for one, two in zip(direct, indirect, strict=True)]
