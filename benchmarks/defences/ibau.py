"""Unlearning of the perturbation that fools the network on all images at once.

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
"""Takes the perturbation, gives a loss () that depends on the weights as well."""


@dataclass(frozen=True)
class IBau:
    """min over θ of max over δ, ||δ||_2 <= C, of the mean cross-entropy of f_θ(x + δ) over D.

    Source: Zeng et al. 2022, equation 1 and algorithm 1, with the settings of the authors' release for CIFAR-10. In
    each round δ starts at 0 and climbs; then θ descends along the gradient of the loss at δ(θ), which is the implicit
    hypergradient: how δ moves with θ is found by fixed-point iterations (Grazzi et al. 2020). Batch normalisation keeps
    its statistics throughout. In the outer loss the equation puts δ on all images, the release on one in a hundred; so
    it is here, since with δ on all of them nothing keeps the accuracy on clean images. Labels are those of D in both
    loops, as in the equation; the release climbs away from the network's decisions.

    Adapted: with 50 images a class a pass over D has a tenth of the steps that their 5,000 images give, so that D is
    passed over until there are as many, 50. There is one round, as in the release's
    CIFAR-10 notebook (its script has 5): with so few images each further one costs accuracy. The fixed point is of the
    current batch, where the release's is of the first.

    Attributes:
        rounds: of both loops. steps: of either loop in a round. batch: images a step.
        ascent: learning rate of δ, plain gradient ascent. radius: C, pixels scaled to [0, 1].
        penalty: of ||δ||_2^2 in the inner loss.
        iterations: K of the fixed point. inner_step: of the gradient map whose fixed point δ is.
        share: of a batch that is perturbed in the outer loss, the rest being clean. learning_rate: Adam's, of θ.
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
        """Alternate both loops; the notes have the norm of δ after each round's ascent."""
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
        """As many batches as there are steps, pass after pass over D."""
        left = self.steps
        while left:
            for batch, _ in zip(batches(clean, self.batch, generator), range(left), strict=False):
                left -= 1
                yield batch

    def climb(self, module: nn.Module, of: Iterator[Batch]) -> Tensor:
        """The perturbation (1, 3, 32, 32) that is found from 0."""
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
        """One step of the weights along the hypergradient for each batch."""
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
        """What δ descends: minus the cross-entropy of all images with δ, plus the penalty."""
        x, y = batch
        return lambda delta: self.penalty * delta.square().sum() - nn.functional.cross_entropy(module(x + delta), y)


def outer(module: nn.Module, batch: Batch, perturbed: Tensor) -> Loss:
    """What θ descends: the cross-entropy with δ on the images where `perturbed` (B, 1, 1, 1) is 1, not 0."""
    x, y = batch
    return lambda delta: nn.functional.cross_entropy(module(x + perturbed * delta), y)


def hypergradient(
    inner: Loss, outer: Loss, delta: Tensor, weights: Sequence[Tensor], step: float, iterations: int
) -> list[Tensor]:
    """Gradient of outer(δ(θ), θ) with respect to θ where δ(θ) minimises inner(δ, θ).

    With the gradient map Φ(δ, θ) = δ - step ∂inner/∂δ, whose fixed point is δ(θ), it is ∂outer/∂θ + (∂Φ/∂θ)ᵀ v, where
    v = (∂Φ/∂δ)ᵀ v + ∂outer/∂δ is iterated from 0.

    Args:
        inner, outer: losses of δ, through the same weights. delta: δ(θ), any shape. weights: θ, with `requires_grad`.
        step: of the gradient map. iterations: of v; the limit is exact where the map contracts.

    Returns:
        One tensor for each of the weights.
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
