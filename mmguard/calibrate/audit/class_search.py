"""The audit's search at one scale: changes clean inputs of other classes until the margin of a class is large."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmguard.calibrate.audit import plan
from mmguard.calibrate.audit.changes import Change, Cover
from mmguard.calibrate.audit.features import ClassFeatures, features_and_logits
from mmguard.calibrate.audit.pixels import by_pixel, largest, mean_size
from mmguard.calibrate.audit.plan import per_class
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.objective import class_margins
from mmguard.calibrate.margin_ascent import OnInputs, ascend, autocast_logits, margin_gradients
from mmguard.calibrate.progress import FORWARD

ALONE_STEP, ALONE_NOISE = 0.02, 0.3
"""Scales `sample` and `orthogonal`: the step size as a fraction of the width of the box, and the proportion of noise in
the starting inputs."""
PIXELS = 1 / 64
"""Fraction of the pixels that the final pattern covers; at least one pixel is covered."""
SHRINKING, PATTERN_STEP, MEMORY = 0.6, 0.8, 0.8
"""Settings of scale `pixels`: the fraction of the placing steps during which the pattern shrinks from the whole input
to its final pixels, the step size as a fraction of `STEP`, and the weight of earlier steps in the running mean of each
pixel's gain."""


@dataclass(frozen=True)
class Ground:
    """What all scales of a search have in common.

    Attributes:
        graph: the network.
        clean: (N, ...) the clean inputs D.
        decisions: (N,) int64, the classes that the network assigns to D, on the CPU.
        box: feasible inputs.
        bounds: bounds by value name; if None, the original network is searched.
        chunk: number of inputs per pass.
        on_inputs: called with the number of inputs in each pass; in a pass without gradients, each input counts as
            `FORWARD`.
        check: called before each pass; it may raise an error to stop the search.
    """

    graph: DifferentiableGraph
    clean: Tensor
    decisions: Tensor
    box: Box
    bounds: Mapping[str, Tensor] | None
    chunk: int
    on_inputs: OnInputs = lambda _: None
    check: Callable[[], None] = lambda: None


class ClassSearch:
    """Searches for the largest margin of some classes of one network.

    Args:
        ground: the network and the clean inputs.
        labels: (G,) int64, the classes to search.
        generator: random number generator, on the CPU.
        classes: number of classes that the whole search covers, which limits the number of inputs per class.
        share: share of the steps to take, in (0, 1].
    """

    def __init__(
        self, ground: Ground, labels: Tensor, generator: torch.Generator, classes: int, share: float = 1.0
    ) -> None:
        self._ground, self._labels, self._generator, self._share = ground, labels, generator, share
        self._clean, self._box, self._classes = ground.clean, ground.box, classes
        self._every = torch.arange(len(labels), device=ground.clean.device)
        everyone = torch.arange(len(ground.clean))
        rest = [everyone[ground.decisions != label] for label in labels.tolist()]
        self._pools = [pool if len(pool) else everyone for pool in rest]

    def alone(self, steps: int) -> Tensor:
        """Search at the scale `sample`: each input is changed independently.

        Each input starts as a clean input mixed with noise.

        Args:
            steps: number of steps.

        Returns:
            (G,) mean margins by class.
        """
        groups = self._each(plan.ALONE)
        rows = torch.randint(len(self._clean), (len(groups),), generator=self._generator)
        x = self._noisy(rows.to(self._clean.device))
        for _ in range(self._steps(steps)):
            x = ascend(x, ALONE_STEP * self._box.width, self._gradients(x, groups).sign(), self._box)
        return self._by_class(self._margins(x, groups), groups)

    def orthogonal(self, features: ClassFeatures, steps: int) -> Tensor:
        """Search at the scale `orthogonal`: as `alone`, but without the features that are typical of the class.

        Args:
            features: what is typical of each class.
            steps: number of steps.

        Returns:
            (G,) mean margins by class.
        """
        groups = self._each(plan.APART)
        rows = self._drawn(groups)
        x = self._noisy(rows)
        for _ in range(self._steps(steps)):
            gradients = self._excess_gradients(x, groups, rows, features)
            x = ascend(x, ALONE_STEP * self._box.width, gradients.sign(), self._box)
        return self._by_class(self._margins(x, groups), groups)

    def shared(self, change: Change, steps: int) -> Tensor:
        """Search for a change that many inputs share, starting from the initial parameters of the change.

        Args:
            change: the family of changes.
            steps: number of steps.

        Returns:
            (G,) mean margins by class, on newly drawn inputs.
        """
        return self._judged(change, self._improved(change, change.start(len(self._every)), steps))

    def pixels(self, placing: int, improving: int) -> Tensor:
        """Search at the scale `pixels`: a pattern covers the few pixels where it has the largest effect.

        Args:
            placing: number of steps that choose the pixels.
            improving: number of steps that then improve the pattern on these pixels.

        Returns:
            (G,) mean margins by class, on newly drawn inputs.
        """
        groups = self._each(plan.SHARING)
        change = Cover(self._clean[:1], self._box, torch.ones((), dtype=torch.bool, device=self._clean.device))
        pattern = change.start(len(self._every))
        gains = by_pixel(torch.zeros_like(pattern))
        steps = self._steps(placing)
        for number in range(steps):
            x, shown = self._draw(groups), largest(gains, PIXELS ** min(1.0, number / (SHRINKING * steps)))
            gradients = self._gradients(torch.where(shown[groups], pattern[groups], x), groups)
            gain = by_pixel(self._sum(gradients * (pattern[groups] - x), groups))
            gains = MEMORY * gains + (1 - MEMORY) * gain / mean_size(gain)
            pattern = change.step(pattern, self._sum(gradients, groups), PATTERN_STEP)
        shown = largest(gains, PIXELS)
        pattern = self._improved(Cover(self._clean[:1], self._box, shown[groups]), pattern, improving)
        return self._judged(Cover(self._clean[:1], self._box, shown[self._each(plan.JUDGED)]), pattern)

    def _steps(self, steps: int) -> int:
        return max(1, int(self._share * steps))

    def _improved(self, change: Change, parameters: Tensor, steps: int) -> Tensor:
        """Return the parameters (G, ...) after all steps; each step uses newly drawn inputs."""
        groups, steps = self._each(plan.SHARING), self._steps(steps)
        for number in range(steps):
            gradient = self._change_gradient(change, parameters, groups)
            parameters = change.step(parameters, gradient, 1 - number / steps)
        return parameters

    @torch.no_grad()
    def _judged(self, change: Change, parameters: Tensor) -> Tensor:
        """Return the mean margins (G,) that a change reaches on newly drawn inputs."""
        groups = self._each(plan.JUDGED)
        return self._by_class(self._margins(change.apply(self._draw(groups), parameters[groups]), groups), groups)

    def _change_gradient(self, change: Change, parameters: Tensor, groups: Tensor) -> Tensor:
        """Return the gradient (G, ...) of the margins of newly drawn inputs with respect to the parameters."""
        parameters = parameters.detach().requires_grad_()
        changed = change.apply(self._draw(groups), parameters[groups])
        return torch.autograd.grad(changed, parameters, self._gradients(changed.detach(), groups))[0]

    def _each(self, count: int) -> Tensor:
        """Return the index into `labels` of each input, (M,) int64: each `count` times, or fewer if K is large."""
        return self._every.repeat_interleave(per_class(count, self._classes))

    def _drawn(self, groups: Tensor) -> Tensor:
        """Draw rows (M,) of clean inputs that the network assigns to classes other than those of `groups` (M,)."""
        pools = [self._pools[group] for group in groups.tolist()]
        draws = torch.rand(len(pools), generator=self._generator).tolist()
        rows = [pool[int(draw * len(pool))] for pool, draw in zip(pools, draws, strict=True)]
        return torch.stack(rows).to(self._clean.device)

    def _draw(self, groups: Tensor) -> Tensor:
        """Draw clean inputs (M, ...) that the network assigns to classes other than those of `groups` (M,)."""
        return self._clean[self._drawn(groups)]

    def _noisy(self, rows: Tensor) -> Tensor:
        noise = torch.rand(len(rows), *self._clean.shape[1:], generator=self._generator).to(self._clean.device)
        noise = self._box.low + noise * self._box.width
        return (1 - ALONE_NOISE) * self._clean[rows] + ALONE_NOISE * noise

    def _gradients(self, x: Tensor, groups: Tensor) -> Tensor:
        ground = self._ground
        ground.check()
        gradients = margin_gradients(
            *(ground.graph, ground.bounds, x, self._labels[groups], ground.chunk, ground.on_inputs)
        )
        return gradients.nan_to_num(0, 0, 0)  # the square root in a standard deviation has no finite gradient at 0

    def _excess_gradients(self, x: Tensor, groups: Tensor, rows: Tensor, typical: ClassFeatures) -> Tensor:
        """Return the gradients (M, ...) of `ClassFeatures.excess`."""
        ground, gradients = self._ground, []
        ground.check()
        parts = (values.split(ground.chunk) for values in (x, rows, self._labels[groups]))
        for part, part_rows, part_classes in zip(*parts, strict=True):
            part = part.detach().requires_grad_()
            features, logits = features_and_logits(ground.graph, typical.value, part, ground.bounds)
            excess = typical.excess(logits, features, part_rows, part_classes)
            gradients.append(torch.autograd.grad(excess.sum(), part)[0])
            ground.on_inputs(len(part))
        return torch.cat(gradients).nan_to_num(0, 0, 0)

    @torch.no_grad()
    def _margins(self, x: Tensor, groups: Tensor) -> Tensor:
        ground, margins = self._ground, []
        ground.check()
        for part, part_classes in zip(x.split(ground.chunk), self._labels[groups].split(ground.chunk), strict=True):
            margins.append(class_margins(autocast_logits(ground.graph, ground.bounds, part), part_classes))
            ground.on_inputs(len(part) * FORWARD)
        return torch.cat(margins)

    def _by_class(self, margins: Tensor, groups: Tensor) -> Tensor:
        """Return the mean margin of each class, (G,)."""
        return self._sum(margins, groups) / torch.bincount(groups)

    def _sum(self, values: Tensor, groups: Tensor) -> Tensor:
        """Sum values (M, ...) by class, (G, ...)."""
        totals = torch.zeros(len(self._every), *values.shape[1:], device=values.device)
        return totals.index_add_(0, groups, values)
