"""Each image has its own trigger, drawn by a network that is trained with the classifier.

Nguyen and Tran 2020, "Input-aware dynamic backdoor attack".
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.attacks.generator import Generator, nearly_binary
from benchmarks.attacks.hook import TrainingHook
from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.roles import add_cover, draw_poisoned
from benchmarks.attacks.single_target import to_pixels

BATCH = 128
EPSILON = 1e-6
LEARNING_RATE, BETAS = 1e-2, (0.5, 0.9)
MILESTONES = (1 / 3, 1 / 2, 2 / 3, 5 / 6)
"""Shares of the training after each of which the learning rate of the patterns falls to a tenth."""
NORM_WEIGHT, DIVERSITY_WEIGHT = 100.0, 1.0
WIDTH = 16


def _generators() -> nn.ModuleDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.ModuleDict({"pattern": Generator(3, WIDTH), "mask": Generator(1, WIDTH)}).eval()


@dataclass(frozen=True)
class InputAware:
    """A small pattern in a small mask, both computed from the image; another image's trigger must not work.

    Source: Nguyen and Tran 2020, with their settings for CIFAR-10: masks of density 0.032, weight 100 of the density, 1
    of the diversity, Adam at 0.01 with betas 0.5 and 0.9, lowered to a tenth four times. In the diversity of patterns
    the images are normalised and the patterns are not, so that it weighs four times what it does in their release.
    Poisoning rate: 10 %, and as many cover images in
    cross-trigger mode, which get the trigger of another image and keep their label. Images of any class are chosen,
    anew in each epoch, as an attacker does who runs the training. Adapted: generators of half the width (16 channels
    first, not 32), so that their file is as small as the classifier's; masks trained for some hundred batches rather
    than 25 epochs; a triggered image is rounded to 256 levels in use.

    Attributes:
        target: the class that triggered images are sent to.
        rate: share of the whole training split that is poisoned, in (0, 1).
        cross_rate: share that is cover.
        density: share of the pixels above which a mask is penalised.
        mask_steps: batches of 128 that the masks are trained on, before the classifier.
        generators: `pattern` and `mask`; untrained until training or `load` fills them.
    """

    target: int = 0
    rate: float = 0.1
    cross_rate: float = 0.1
    density: float = 0.032
    mask_steps: int = 800
    generators: nn.ModuleDict = field(default_factory=_generators, init=False, repr=False, compare=False)

    def hook(self) -> TrainingHook:
        """Trains the generators of this attack."""
        return JointTraining(self)

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Poisoned and cover images of any class."""
        everyone = np.ones(y.shape, dtype=np.bool_)
        return add_cover(draw_poisoned(y, everyone, self.rate, generator), everyone, self.cross_rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Only labels change here; the hook puts triggers on, where gradients reach the generator."""
        return x.copy(), np.where(roles == Role.POISONED, self.goal(y), y)

    def trigger(self, x: Images) -> Images:
        """Each image with its own trigger."""
        self.generators.eval()
        with torch.no_grad():
            parts = [self._trigger(x[first : first + BATCH]) for first in range(0, len(x), BATCH)]
        return np.concatenate([x[:0], *parts])

    def _trigger(self, x: Images) -> Images:
        images = _tensor(x)
        pasted = paste(images, self.pattern(images), self.mask(images))
        return to_pixels(255 * pasted.permute(0, 2, 3, 1).numpy())

    def pattern(self, images: Tensor) -> Tensor:
        """(N, 3, 32, 32) in [0, 1] -> patterns of the same shape and range."""
        pattern: Tensor = self.generators["pattern"](_scaled(images))
        return pattern

    def mask(self, images: Tensor) -> Tensor:
        """(N, 3, 32, 32) in [0, 1] -> (N, 1, 32, 32) in (0, 1), nearly all of it near 0 or 1."""
        return nearly_binary(self.generators["mask"](_scaled(images)))

    def goal(self, y: Labels) -> Labels:
        """The target, for every class."""
        return np.full_like(y, self.target)

    def parameters(self) -> Parameters:
        """Target and rates, and how the generators were trained; their weights are in a file of their own."""
        return {
            "target": self.target,
            "rate": self.rate,
            "cross_rate": self.cross_rate,
            "density": self.density,
            "mask_steps": self.mask_steps,
            "width": WIDTH,
            "pattern": "drawn from the image by the generators in NAME.trigger.safetensors",
        }

    def save(self, path: Path) -> None:
        """Write the weights of both generators."""
        save_file({name: value.contiguous() for name, value in self.generators.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        """Read what `save` wrote; raises RuntimeError where it is of other networks."""
        self.generators.load_state_dict(load_file(path))


class JointTraining(TrainingHook):
    """Trains the masks first, on their own, then the patterns together with the classifier."""

    def __init__(self, attack: InputAware) -> None:
        super().__init__(redraws=True)
        self.attack = attack
        self.optimiser = torch.optim.Adam(attack.generators["pattern"].parameters(), lr=LEARNING_RATE, betas=BETAS)

    def prepare(self, x: Images, y: Labels, roles: Roles, seed: int) -> None:
        """Start both generators anew from the seed, and train that of the masks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.attack.generators.modules():
                if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                    module.reset_parameters()
        optimiser = torch.optim.Adam(self.attack.generators["mask"].parameters(), lr=LEARNING_RATE, betas=BETAS)
        generator = np.random.default_rng([seed, 2])
        self.attack.generators["mask"].train()
        for step in range(self.attack.mask_steps):
            if step in (self.attack.mask_steps // 2, 3 * self.attack.mask_steps // 4):
                _divide_learning_rate(optimiser)
            images = _tensor(x[generator.integers(0, len(x), BATCH)])
            optimiser.zero_grad()
            torch.autograd.backward(mask_loss(images, self.attack.mask(images), self.attack.density))
            optimiser.step()
        self.attack.generators["mask"].eval()

    def join(self, images: Tensor, roles: Roles) -> tuple[Tensor, Tensor]:
        """Put each poisoned image's own trigger on it, and another image's on each cover image.

        Returns:
            The images (B, 3, 32, 32), and the diversity of the patterns as a loss.
        """
        poisoned, cover = (torch.from_numpy(np.flatnonzero(roles == role)) for role in (Role.POISONED, Role.COVER))
        sources = torch.cat([images[poisoned], images.roll(1, 0)[cover]])
        if not len(sources):
            return images, torch.zeros(())
        self.attack.generators["pattern"].train()
        patterns = self.attack.pattern(sources)
        with torch.no_grad():
            masks = self.attack.mask(sources)
        rows = torch.cat([poisoned, cover])
        joined = images.index_copy(0, rows, paste(images[rows], patterns, masks))
        return joined, DIVERSITY_WEIGHT * _pairwise_diversity(sources, patterns, len(poisoned))

    def step(self, done: float) -> None:
        """One step of the pattern's generator, on the gradient of the classifier's loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE / 10 ** sum(done >= milestone for milestone in MILESTONES)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> dict[str, Any]:
        """Both generators and the optimiser."""
        return {"generators": self.attack.generators.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Both generators and the optimiser."""
        self.attack.generators.load_state_dict(state["generators"])
        self.optimiser.load_state_dict(state["optimiser"])


def paste(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """Patterns where masks are 1, images where they are 0."""
    return images + (patterns - images) * masks


def diversity_loss(x: Tensor, others: Tensor, drawn: Tensor, drawn_others: Tensor) -> Tensor:
    """Distance of images over distance of what was drawn for them, (N, ...) each -> (): small where triggers differ."""
    return (_distance(_scaled(x), _scaled(others)) / _distance(drawn, drawn_others)).mean()


def _pairwise_diversity(sources: Tensor, patterns: Tensor, poisoned: int) -> Tensor:
    pairs = min(poisoned, len(sources) - poisoned)  # poisoned ones come first, cover last
    if not pairs:
        return torch.zeros(())
    return diversity_loss(sources[:pairs], sources[-pairs:], patterns[:pairs], patterns[-pairs:])


def mask_loss(images: Tensor, masks: Tensor, density: float) -> Tensor:
    """Diversity and density of masks (N, 1, 32, 32) of images (N, 3, 32, 32) -> ()."""
    diversity = diversity_loss(images, images.roll(1, 0), masks, masks.roll(1, 0))
    return DIVERSITY_WEIGHT * diversity + NORM_WEIGHT * (masks - density).clamp(min=0).mean()


def _distance(x: Tensor, others: Tensor) -> Tensor:
    # Inside the root: where two masks are equal its gradient would be infinite, and the product with 0 not a number.
    return ((x - others).square().flatten(1).mean(dim=1) + EPSILON).sqrt()


def _divide_learning_rate(optimiser: torch.optim.Optimizer) -> None:
    for group in optimiser.param_groups:
        group["lr"] /= 10


def _tensor(x: Images) -> Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255


def _scaled(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25
