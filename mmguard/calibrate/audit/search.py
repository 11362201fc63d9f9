"""What an audit compares: the margins that every class can be brought to, at four scales (MM-BD, Wang et al. 2022).

What a trigger exploits shows at the scale of the trigger, and is drowned at the others:

- `sample`: each input moves by itself through the box. It finds strong triggers of any form.
- `shared`: clean inputs share one faint perturbation, as with triggers that cover the whole input.
- `pixels`: they share a pattern on a few pixels, those where it does most: patches, and whatever is scattered.
- `warp`: they share a smooth warp. It is of images only.

The inputs that share a change towards a class are clean ones that the network decides for others. The weaker a change,
the fewer classes of a clean network it reaches, and the more a trigger stands out.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.audit.changes import Change, Cover, Perturbation, Warp, by_pixel, is_image
from mmguard.calibrate.graph.autocast import reduced
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.margin_search import Box
from mmguard.calibrate.learning.objective import class_margins
from mmguard.calibrate.progress import FORWARD
from mmguard.types import FloatArray

Array = npt.NDArray[np.float32]

SEARCH_BUDGET = 1000
"""Inputs of one step over all classes, at most; a class keeps at least two."""
ALONE, ALONE_STEPS, ALONE_STEP, ALONE_NOISE = 10, 30, 0.02, 0.3
"""Inputs a class that move by themselves, their steps, a step as a share of the box, and the noise in their starts."""
SHARING, SHARED_STEPS = 20, 20
"""Inputs a class that share a change, and steps."""
PIXELS = 1 / 64
"""Share of the pixels that a pattern may cover in the end, at least one of them."""
PLACING_STEPS, SHRINKING, PATTERN_STEP, MEMORY = 40, 0.6, 0.8, 0.8
"""Steps in which a pattern shrinks from the whole input to its pixels, the share of these after which it has their
number, one such step as a share of a change's first, and the share of a pixel's gain that is of the steps before."""
JUDGED = 100
"""Inputs a class that a change is judged on."""
CHUNK = 200
"""Inputs of one forward pass, at most."""


def maximum_margins(
    graph: DifferentiableGraph,
    clean: Array,
    box: tuple[Array, Array],
    classes: int,
    bounds: Mapping[str, Array] | None = None,
    seed: int = 0,
    device: str = "cpu",
    on_inputs: Callable[[float], None] = lambda _: None,
) -> dict[str, FloatArray]:
    """Search every class's largest margins.

    Args:
        graph: the network.
        clean: (N, ...) float32, clean inputs D.
        box: low and high of the feasible inputs, float32, broadcastable against one input.
        classes: K.
        bounds: by value name, float32; None searches the original network.
        seed: seeds all randomness.
        device: torch device, such as `cpu` or `cuda`.
        on_inputs: called with the number of inputs of each pass, of which one without gradient counts as `FORWARD`.

    Returns:
        (K,) float64 by scale: by class, mean margin of the inputs that were found, in logits. Without `warp` where
        inputs are no images.
    """
    x = torch.from_numpy(clean).to(device)
    feasible = Box(*(torch.from_numpy(np.asarray(end))[None].to(device) for end in box))
    tensors = None if bounds is None else {name: torch.from_numpy(bound).to(device) for name, bound in bounds.items()}
    search = AuditSearch(
        graph.to(device), x, feasible, classes, torch.Generator().manual_seed(seed), tensors, on_inputs
    )
    margins = {"sample": search.alone(), "shared": search.shared(Perturbation(x[:1], feasible))}
    margins["pixels"] = search.pixels()
    if is_image(x):
        margins["warp"] = search.shared(Warp(x[:1]))
    return {scale: by_class.double().cpu().numpy() for scale, by_class in margins.items()}


def search_inputs(clean: Array, classes: int) -> float:
    """The work of `maximum_margins` on clean inputs (N, ...) and so many classes, as it tells `on_inputs`."""
    alone, sharing, judged = (classes * _count(number, classes) for number in (ALONE, SHARING, JUDGED))
    shared = sharing * SHARED_STEPS + judged * FORWARD
    scales = (
        alone * (ALONE_STEPS + FORWARD)
        + shared * (3 if is_image(torch.from_numpy(clean)) else 2)
        + sharing * PLACING_STEPS
    )
    return len(clean) * FORWARD + scales


def _count(most: int, classes: int) -> int:
    """Inputs of each class, at most so many, where there are so many classes."""
    return min(most, max(2, SEARCH_BUDGET // classes))


class AuditSearch:
    """The searches on one network.

    Args:
        graph: the network.
        clean: (N, ...) clean inputs D.
        box: feasible inputs.
        classes: K.
        generator: source of all randomness, on the CPU.
        bounds: bounds by value name; None searches the original network.
        on_inputs: as of `maximum_margins`.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        clean: Tensor,
        box: Box,
        classes: int,
        generator: torch.Generator,
        bounds: Mapping[str, Tensor] | None,
        on_inputs: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._graph, self._clean, self._box, self._bounds = graph, clean, box, bounds
        self._every, self._generator = torch.arange(classes, device=clean.device), generator
        self._on_inputs = on_inputs
        self._chunk = inputs_per_pass(graph, clean, CHUNK)
        with torch.no_grad():
            decisions = torch.cat([graph(part, bounds).argmax(1) for part in clean.split(self._chunk)]).cpu()
        on_inputs(len(clean) * FORWARD)
        rest = [(decisions != label).nonzero()[:, 0] for label in range(classes)]
        self._pools = [pool if len(pool) else torch.arange(len(clean)) for pool in rest]

    def alone(self) -> Tensor:
        """(K,) where each input moves by itself, from a clean input with noise."""
        classes = self._each(ALONE)
        rows = torch.randint(len(self._clean), (len(classes),), generator=self._generator)
        noise = torch.rand(len(classes), *self._clean.shape[1:], generator=self._generator).to(self._clean.device)
        x = self._clean[rows.to(self._clean.device)]
        x = (1 - ALONE_NOISE) * x + ALONE_NOISE * (self._box.low + noise * self._box.width)
        for _ in range(ALONE_STEPS):
            gradient = self._gradient(x, classes)
            x = self._box.clamp(x + ALONE_STEP * self._box.width * gradient.sign())
        return self._by_class(self._margins(x, classes), classes)

    def shared(self, change: Change) -> Tensor:
        """(K,) where inputs share a change, which is searched from its start."""
        return self._judged(change, self._improved(change, change.start(len(self._every))))

    def pixels(self) -> Tensor:
        """(K,) where inputs share a pattern on a few pixels: first its place, then what is shown there."""
        classes = self._each(SHARING)
        change = Cover(self._clean[:1], self._box, torch.ones(1, dtype=torch.bool, device=self._clean.device))
        pattern = change.start(len(self._every))
        gains = by_pixel(torch.zeros_like(pattern))
        for number in range(PLACING_STEPS):
            x, shown = self._draw(classes), _most(gains, PIXELS ** min(1.0, number / (SHRINKING * PLACING_STEPS)))
            gradient = self._gradient(torch.where(shown[classes], pattern[classes], x), classes)
            gain = by_pixel(self._sum(gradient * (pattern[classes] - x), classes))
            gains = MEMORY * gains + (1 - MEMORY) * gain / _mean_size(gain)
            pattern = change.step(pattern, self._sum(gradient, classes), PATTERN_STEP)
        shown = _most(gains, PIXELS)
        pattern = self._improved(Cover(self._clean[:1], self._box, shown[classes]), pattern)
        return self._judged(Cover(self._clean[:1], self._box, shown[self._each(JUDGED)]), pattern)

    def _improved(self, change: Change, parameters: Tensor) -> Tensor:
        """Parameters (K, ...) after all steps, each on newly drawn inputs."""
        classes = self._each(SHARING)
        for number in range(SHARED_STEPS):
            gradient = self._change_gradient(change, parameters, classes)
            parameters = change.step(parameters, gradient, 1 - number / SHARED_STEPS)
        return parameters

    @torch.no_grad()
    def _judged(self, change: Change, parameters: Tensor) -> Tensor:
        classes = self._each(JUDGED)
        return self._by_class(self._margins(change.apply(self._draw(classes), parameters[classes]), classes), classes)

    def _change_gradient(self, change: Change, parameters: Tensor, classes: Tensor) -> Tensor:
        """Gradient (K, ...) by the parameters, over newly drawn inputs."""
        parameters = parameters.detach().requires_grad_()
        changed = change.apply(self._draw(classes), parameters[classes])
        return torch.autograd.grad(changed, parameters, self._gradient(changed.detach(), classes))[0]

    def _each(self, count: int) -> Tensor:
        """(M,) int64, the class of each of `count` inputs a class, or of as many as the budget allows."""
        return self._every.repeat_interleave(_count(count, len(self._every)))

    def _draw(self, classes: Tensor) -> Tensor:
        """Clean inputs (M, ...) that are decided for another class than theirs here."""
        pools = [self._pools[label] for label in classes.tolist()]
        draws = torch.rand(len(pools), generator=self._generator).tolist()
        rows = torch.stack([pool[int(draw * len(pool))] for pool, draw in zip(pools, draws, strict=True)])
        return self._clean[rows.to(self._clean.device)]

    def _gradient(self, x: Tensor, classes: Tensor) -> Tensor:
        """Gradient (M, ...) of each input's margin, in batches that bound the memory."""
        gradients = []
        for part, labels in zip(x.split(self._chunk), classes.split(self._chunk), strict=True):
            part = part.detach().requires_grad_()
            margins = class_margins(self._logits(part), labels)
            gradients.append(torch.autograd.grad(margins.sum(), part)[0])
            self._on_inputs(len(part))
        return torch.cat(gradients).nan_to_num(0, 0, 0)  # of a root at 0, as where a uniform image is standardised

    @torch.no_grad()
    def _margins(self, x: Tensor, classes: Tensor) -> Tensor:
        margins = []
        for part, labels in zip(x.split(self._chunk), classes.split(self._chunk), strict=True):
            margins.append(class_margins(self._logits(part), labels))
            self._on_inputs(len(part) * FORWARD)
        return torch.cat(margins)

    def _logits(self, x: Tensor) -> Tensor:
        with reduced(x.device):
            logits: Tensor = self._graph(x, self._bounds)
        return logits.float()

    def _by_class(self, margins: Tensor, classes: Tensor) -> Tensor:
        return self._sum(margins, classes) / torch.bincount(classes)

    def _sum(self, values: Tensor, classes: Tensor) -> Tensor:
        """(K, ...), sums of values (M, ...) by class."""
        totals = torch.zeros(len(self._every), *values.shape[1:], device=values.device)
        return totals.index_add_(0, classes, values)


def _most(gains: Tensor, share: float) -> Tensor:
    """(K, ...) bool, the share of pixels with the largest gains (K, ...), at least one a class."""
    flat = gains.flatten(1)
    chosen = flat.topk(max(1, round(share * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(gains)


def _mean_size(gains: Tensor) -> Tensor:
    """(K, 1, ...), by class, never 0."""
    return gains.abs().mean(tuple(range(1, gains.ndim)), keepdim=True).clamp(min=1e-12)
