"""Search for each class's largest margin at four scales; the audit compares the classes (MM-BD, Wang et al. 2022).

A trigger stands out at the scale that matches its form, and is hardly visible at the other scales:

- `sample`: each input is changed independently within the box. This finds strong triggers of any form.
- `shared`: clean inputs share one faint perturbation. This finds faint triggers that cover the whole input.
- `pixels`: clean inputs share a pattern on the few pixels where the pattern has the largest effect. This finds
  patches and scattered pixels.
- `warp`: clean inputs share a smooth warp. This finds warping triggers. This scale is used only for images.

For each class, the inputs that share a change are clean inputs that the network assigns to other classes. The weaker
the shared change, the fewer classes get large margins on a clean network, and the more clearly a trigger stands out.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.audit.changes import Change, Cover, Perturbation, Warp
from mmguard.calibrate.audit.pixels import by_pixel, is_image, largest, mean_size
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.logits import batched_logits
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.objective import class_margins
from mmguard.calibrate.margin_ascent import OnInputs, ascend, autocast_logits, margin_gradients
from mmguard.calibrate.progress import FORWARD
from mmguard.types import FloatArray

Array = npt.NDArray[np.float32]

SEARCH_BUDGET = 1000
"""Maximum number of inputs per step, summed over all classes; each class gets at least two inputs, even if this exceeds
the maximum."""
ALONE, ALONE_STEPS, ALONE_STEP, ALONE_NOISE = 10, 30, 0.02, 0.3
"""Settings of scale `sample`: the number of inputs per class, the number of steps, the step size as a fraction of the
width of the box, and the proportion of noise in the starting inputs."""
SHARING, SHARED_STEPS = 20, 20
"""Settings of all other scales: the number of inputs per class that share a change, and the number of steps."""
PIXELS = 1 / 64
"""Fraction of the pixels that the final pattern covers; at least one pixel is covered."""
PLACING_STEPS, SHRINKING, PATTERN_STEP, MEMORY = 40, 0.6, 0.8, 0.8
"""Settings of scale `pixels`: the number of steps that choose the pixels, the fraction of these steps during which the
pattern shrinks from the whole input to its final pixels, the step size as a fraction of `STEP`, and the weight of
earlier steps in the running mean of each pixel's gain."""
JUDGED = 100
"""Number of inputs per class on which a change is evaluated."""
CHUNK = 200
"""Maximum number of inputs per pass."""


def maximum_margins(
    graph: DifferentiableGraph,
    clean: Array,
    box: Box,
    classes: int,
    bounds: Mapping[str, Array] | None = None,
    seed: int = 0,
    on_inputs: OnInputs = lambda _: None,
) -> dict[str, FloatArray]:
    """Search for the largest margin of every class, on the device that `box` is on.

    Args:
        graph: the network; it is moved to the device.
        clean: (N, ...) float32, the clean inputs D.
        box: feasible inputs.
        classes: number of classes K.
        bounds: bounds by value name, float32; if None, the original network is searched.
        seed: random seed.
        on_inputs: called with the number of inputs in each pass; in a pass without gradients, each input counts as
            `FORWARD`.

    Returns:
        Margins (K,) float64 by scale: for each class, the mean margin, in logits, of the inputs that the search
            found. The scale `warp` is missing unless the inputs are images.
    """
    x = torch.from_numpy(clean).to(box.device)
    tensors = None if bounds is None else {name: torch.from_numpy(each).to(box.device) for name, each in bounds.items()}
    generator = torch.Generator().manual_seed(seed)
    search = AuditSearch(graph.to(box.device), x, box, classes, generator, tensors, on_inputs)
    margins = {
        "sample": search.alone(),
        "shared": search.shared(Perturbation(x[:1], box)),
        "pixels": search.pixels(),
    }
    if is_image(x):
        margins["warp"] = search.shared(Warp(x[:1]))
    return {scale: by_class.double().cpu().numpy() for scale, by_class in margins.items()}


def search_inputs(clean: Array, classes: int) -> float:
    """Return the amount of work in `maximum_margins`: the sum of all numbers passed to `on_inputs`.

    Args:
        clean: (N, ...) the clean inputs D.
        classes: number of classes K.

    Returns:
        Number of inputs that pass forward and backward through the network.
    """
    alone, sharing, judged = (classes * _per_class(number, classes) for number in (ALONE, SHARING, JUDGED))
    shared = sharing * SHARED_STEPS + judged * FORWARD
    scales = (
        alone * (ALONE_STEPS + FORWARD)
        + shared * (3 if is_image(torch.from_numpy(clean)) else 2)
        + sharing * PLACING_STEPS
    )
    return len(clean) * FORWARD + scales


def _per_class(most: int, classes: int) -> int:
    """Return the number of inputs per class that the budget allows, but at most `most`."""
    return min(most, max(2, SEARCH_BUDGET // classes))


class AuditSearch:
    """Searches for the largest margin of every class of one network.

    Args:
        graph: the network.
        clean: (N, ...) the clean inputs D.
        box: feasible inputs.
        classes: number of classes K.
        generator: random number generator, on the CPU.
        bounds: bounds by value name; if None, the original network is searched.
        on_inputs: called with the number of inputs in each pass; in a pass without gradients, each input counts as
            `FORWARD`.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        clean: Tensor,
        box: Box,
        classes: int,
        generator: torch.Generator,
        bounds: Mapping[str, Tensor] | None,
        on_inputs: OnInputs = lambda _: None,
    ) -> None:
        self._graph, self._clean, self._box, self._bounds = graph, clean, box, bounds
        self._every, self._generator = torch.arange(classes, device=clean.device), generator
        self._on_inputs = on_inputs
        self._chunk = inputs_per_pass(graph, clean, CHUNK)
        decisions = batched_logits(graph, clean, bounds, self._chunk).argmax(1).cpu()
        on_inputs(len(clean) * FORWARD)
        rest = [(decisions != label).nonzero()[:, 0] for label in range(classes)]
        self._pools = [pool if len(pool) else torch.arange(len(clean)) for pool in rest]

    def alone(self) -> Tensor:
        """Search at the scale `sample`: each input is changed independently.

        Each input starts as a clean input mixed with noise.

        Returns:
            (K,) mean margins by class.
        """
        classes = self._each(ALONE)
        rows = torch.randint(len(self._clean), (len(classes),), generator=self._generator)
        noise = torch.rand(len(classes), *self._clean.shape[1:], generator=self._generator).to(self._clean.device)
        x = self._clean[rows.to(self._clean.device)]
        x = (1 - ALONE_NOISE) * x + ALONE_NOISE * (self._box.low + noise * self._box.width)
        for _ in range(ALONE_STEPS):
            x = ascend(x, ALONE_STEP * self._box.width, self._gradients(x, classes).sign(), self._box)
        return self._by_class(self._margins(x, classes), classes)

    def shared(self, change: Change) -> Tensor:
        """Search for a change that many inputs share, starting from the initial parameters of the change.

        Args:
            change: the change.

        Returns:
            (K,) mean margins by class.
        """
        return self._judged(change, self._improved(change, change.start(len(self._every))))

    def pixels(self) -> Tensor:
        """Search at the scale `pixels`: choose the pixels that a shared pattern covers, then improve the pattern.

        Returns:
            (K,) mean margins by class.
        """
        classes = self._each(SHARING)
        change = Cover(self._clean[:1], self._box, torch.ones(1, dtype=torch.bool, device=self._clean.device))
        pattern = change.start(len(self._every))
        gains = by_pixel(torch.zeros_like(pattern))
        for number in range(PLACING_STEPS):
            x, shown = self._draw(classes), largest(gains, PIXELS ** min(1.0, number / (SHRINKING * PLACING_STEPS)))
            gradients = self._gradients(torch.where(shown[classes], pattern[classes], x), classes)
            gain = by_pixel(self._sum(gradients * (pattern[classes] - x), classes))
            gains = MEMORY * gains + (1 - MEMORY) * gain / mean_size(gain)
            pattern = change.step(pattern, self._sum(gradients, classes), PATTERN_STEP)
        shown = largest(gains, PIXELS)
        pattern = self._improved(Cover(self._clean[:1], self._box, shown[classes]), pattern)
        return self._judged(Cover(self._clean[:1], self._box, shown[self._each(JUDGED)]), pattern)

    def _improved(self, change: Change, parameters: Tensor) -> Tensor:
        """Return the parameters (K, ...) after all steps; each step uses newly drawn inputs."""
        classes = self._each(SHARING)
        for number in range(SHARED_STEPS):
            gradient = self._change_gradient(change, parameters, classes)
            parameters = change.step(parameters, gradient, 1 - number / SHARED_STEPS)
        return parameters

    @torch.no_grad()
    def _judged(self, change: Change, parameters: Tensor) -> Tensor:
        """Return the mean margins (K,) that a change reaches on newly drawn inputs."""
        classes = self._each(JUDGED)
        return self._by_class(self._margins(change.apply(self._draw(classes), parameters[classes]), classes), classes)

    def _change_gradient(self, change: Change, parameters: Tensor, classes: Tensor) -> Tensor:
        """Return the gradient (K, ...) of the margins of newly drawn inputs with respect to the parameters."""
        parameters = parameters.detach().requires_grad_()
        changed = change.apply(self._draw(classes), parameters[classes])
        return torch.autograd.grad(changed, parameters, self._gradients(changed.detach(), classes))[0]

    def _each(self, count: int) -> Tensor:
        """Return the class of each input, (M,) int64: each class `count` times, or fewer if the budget is too low."""
        return self._every.repeat_interleave(_per_class(count, len(self._every)))

    def _draw(self, classes: Tensor) -> Tensor:
        """Draw clean inputs (M, ...) that the network assigns to classes other than `classes` (M,)."""
        pools = [self._pools[label] for label in classes.tolist()]
        draws = torch.rand(len(pools), generator=self._generator).tolist()
        rows = torch.stack([pool[int(draw * len(pool))] for pool, draw in zip(pools, draws, strict=True)])
        return self._clean[rows.to(self._clean.device)]

    def _gradients(self, x: Tensor, classes: Tensor) -> Tensor:
        gradients = margin_gradients(self._graph, self._bounds, x, classes, self._chunk, self._on_inputs)
        return gradients.nan_to_num(0, 0, 0)  # the square root in a standard deviation has no finite gradient at 0

    @torch.no_grad()
    def _margins(self, x: Tensor, classes: Tensor) -> Tensor:
        margins = []
        for part, part_classes in zip(x.split(self._chunk), classes.split(self._chunk), strict=True):
            margins.append(class_margins(autocast_logits(self._graph, self._bounds, part), part_classes))
            self._on_inputs(len(part) * FORWARD)
        return torch.cat(margins)

    def _by_class(self, margins: Tensor, classes: Tensor) -> Tensor:
        """Return the mean margin of each class, (K,)."""
        return self._sum(margins, classes) / torch.bincount(classes)

    def _sum(self, values: Tensor, classes: Tensor) -> Tensor:
        """Sum values (M, ...) by class, (K, ...)."""
        totals = torch.zeros(len(self._every), *values.shape[1:], device=values.device)
        return totals.index_add_(0, classes, values)
