"""Training objectives by name: the CE, mixup and GCL of the paper's Table 2."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar import Labels
from benchmarks.training.imbalance import Sizes

Targets = tuple[Tensor, ...]
"""What the loss of a batch needs besides the logits; the first item is always the labels (B,) int64."""


class Objective(Protocol):
    """A training objective. It only draws random numbers in `mix` and `draw`, from the generator of the batches.

    Both are told whether the epoch belongs to retraining.
    """

    @property
    def retraining(self) -> int:
        """Additional epochs at the end in which only the head is trained."""
        ...

    def mix(
        self, images: Tensor, labels: Tensor, generator: np.random.Generator, retrains: bool
    ) -> tuple[Tensor, Targets]:
        """Return a batch (B, 3, H, W) float32 in [0, 1] with labels (B,) int64 as the network is trained on it."""
        ...

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the logits (B, K) float32 for the loss, from normalised images (B, 3, H, W)."""
        ...

    def loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the mean loss (), from logits (B, K) and targets of `mix`, on one device."""
        ...

    def draw(self, y: Labels, count: int, generator: np.random.Generator, retrains: bool) -> NDArray[np.int64]:
        """Draw the training images of an epoch, (count,) int64, given all labels (N,)."""
        ...

    def finish(self, network: nn.Module, images: Tensor) -> None:
        """Turn the network into a plain classifier after training, given a few normalised images (N, 3, H, W)."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the softmax, the paper's baseline.

    Attributes:
        sizes: training images of each class, K numbers.
        retraining: additional epochs at the end in which only the head is trained.
    """

    sizes: tuple[int, ...]
    retraining: int = 0

    def mix(
        self, images: Tensor, labels: Tensor, generator: np.random.Generator, retrains: bool
    ) -> tuple[Tensor, Targets]:
        """Return the batch unchanged."""
        return images, (labels,)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = network(images).float()
        return logits

    def loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(logits, targets[0])

    def draw(self, y: Labels, count: int, generator: np.random.Generator, retrains: bool) -> NDArray[np.int64]:
        """Draw images uniformly without repetition."""
        return generator.permutation(len(y))[:count]

    def finish(self, network: nn.Module, images: Tensor) -> None:
        """Do nothing, because the network is a plain classifier already."""


@dataclass(frozen=True)
class Mixup(CrossEntropy):
    """Mixtures of pairs of images and of their one-hot labels.

    Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization", section 2:

        x = λ xᵢ + (1 − λ) xⱼ,  y = λ yᵢ + (1 − λ) yⱼ,  λ ~ Beta(α, α)

    As in that paper, a batch is mixed with a permutation of itself, with one λ. Images are mixed after augmentation.

    Attributes:
        alpha: α; 1 draws λ uniformly, as for that paper's CIFAR networks.
    """

    alpha: float = 1.0

    def mix(
        self, images: Tensor, labels: Tensor, generator: np.random.Generator, retrains: bool
    ) -> tuple[Tensor, Targets]:
        """Return mixed images; the targets are the labels of xᵢ and xⱼ, (B,) int64 each, and λ, () float32."""
        share = generator.beta(self.alpha, self.alpha)
        partners = torch.from_numpy(generator.permutation(len(labels)))
        mixed = share * images + (1 - share) * images[partners]
        return mixed, (labels, labels[partners], torch.tensor(share, dtype=torch.float32))

    def loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the cross-entropy with the mixed label, which is linear in the label."""
        first, second, share = targets
        return share * functional.cross_entropy(logits, first) + (1 - share) * functional.cross_entropy(logits, second)


@dataclass(frozen=True)
class GaussianCloud(CrossEntropy):
    """Gaussian clouded logits (GCL): noise lowers the logits of rare classes, so that their images stay active longer.

    Source: Li, Cheung and Lu 2022, "Long-tailed visual recognition via Gaussian clouded logit adjustment", in two
    stages. First all weights are trained on the cross-entropy of

        s (cos θⱼ − a δⱼ / δ_max |εⱼ|),  δⱼ = log n_max − log nⱼ,  εⱼ ~ N(0, σ²) clamped to [−1, 1]

    where θⱼ is the angle between the features and the weights of class j. Then only the classifier is retrained, on
    images drawn by the effective number of their class, E = (1 − βⁿ) / (1 − β) (Cui et al. 2019, equation 2).

    Equation and constants are from memory, not checked against the paper. Also adapted: β is one number (theirs depends
    on the class); retraining starts from the weights of the first stage, takes as long as in Kang et al. 2020, and
    has no noise, which would favour rare classes twice. The head remains a linear layer, as in deployed networks:
    `finish` writes weights into it that give each image the cosine classifier's decision.

    Attributes:
        retraining: additional epochs at the end in which only the head is trained.
        scale: s.
        amplitude: a, the largest perturbation of a cosine.
        deviation: σ.
        beta: β.
    """

    retraining: int = 10
    scale: float = 30.0
    amplitude: float = 0.5
    deviation: float = 1 / 3
    beta: float = 0.9999

    @property
    def cloud_sizes(self) -> NDArray[np.float64]:
        """Largest perturbation of each class's cosine, a δ / δ_max, (K,); 0 if all classes are equally frequent."""
        spread: NDArray[np.float64] = np.log(max(self.sizes)) - np.log(self.sizes)
        return self.amplitude * spread / max(float(spread.max()), np.finfo(float).tiny)

    def mix(
        self, images: Tensor, labels: Tensor, generator: np.random.Generator, retrains: bool
    ) -> tuple[Tensor, Targets]:
        """Return the images; the targets are labels (B,) int64 and perturbations of the cosines (B, K) float32."""
        if retrains:
            return images, (labels, torch.zeros(len(labels), len(self.sizes)))
        noise = np.abs(generator.normal(0, self.deviation, (len(labels), len(self.sizes)))).clip(max=1)
        return images, (labels, torch.from_numpy((self.cloud_sizes * noise).astype(np.float32)))

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the cosines between features and head weights instead of logits."""
        features = features_of(network, images)
        with torch.autocast(features.device.type, enabled=False):  # in bfloat16, times s, the error would be a tenth
            return functional.linear(functional.normalize(features.float()), functional.normalize(head_of(network)))

    def loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the cross-entropy of the clouded, scaled cosines."""
        labels, cloud = targets
        return functional.cross_entropy(self.scale * (logits - cloud), labels)

    def draw(self, y: Labels, count: int, generator: np.random.Generator, retrains: bool) -> NDArray[np.int64]:
        """In retraining, draw images with repetition, with weights inverse to the effective number of their class."""
        if not retrains:
            return super().draw(y, count, generator, retrains)
        effective = (1 - self.beta ** np.asarray(self.sizes)) / (1 - self.beta)
        weights = (1 / effective)[y]
        return generator.choice(len(y), count, p=weights / weights.sum())

    @torch.no_grad()
    def finish(self, network: nn.Module, images: Tensor) -> None:
        """Write the cosine classifier to the head, scaled so that features of mean length have logits of s cos θ."""
        length = features_of(network.eval(), images).float().norm(dim=1).mean()
        head = network.get_submodule("head")
        weight = head_of(network)
        weight.copy_(functional.normalize(weight) * self.scale / length)
        if isinstance(head.bias, Tensor):
            head.bias.zero_()


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the input of the head, (B, F), with a gradient."""
    caught: list[Tensor] = []
    handle = network.get_submodule("head").register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return caught[0]


def head_of(network: nn.Module) -> Tensor:
    """Return the weights of the head, (K, F)."""
    return network.get_parameter("head.weight")


OBJECTIVES: dict[str, Callable[[tuple[int, ...]], Objective]] = {
    "CE": CrossEntropy,
    "GCL": GaussianCloud,
    "mixup": Mixup,
}


def objective_of(name: str, sizes: Sizes) -> Objective:
    """Return the objective with this name for a training set with `sizes` (K,) int64 images of each class."""
    return OBJECTIVES[name](tuple(sizes.tolist()))
