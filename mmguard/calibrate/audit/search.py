"""Search for each class's largest margin at several scales; the audit compares the classes (MM-BD, Wang et al. 2022).

A trigger stands out at the scale that matches its form, and is hardly visible at the other scales:

- `sample`: each input is changed independently within the box. This finds strong triggers of any form.
- `orthogonal`: as `sample`, but without the features that are typical of the class (Yang, Miller and Kesidis 2025). On
  a clean network this leaves no margin. It finds triggers that have features of their own, and more than one target.
- `shared`: clean inputs share one faint perturbation. This finds faint triggers that cover the whole input.
- `pixels`: clean inputs share a pattern on the few pixels where the pattern has the largest effect. This finds
  patches and scattered pixels.
- `warp`: clean inputs share a smooth warp. This finds warping triggers. This scale is used only for images.

For each class, the inputs that share a change are clean inputs that the network assigns to other classes. The weaker
the shared change, the fewer classes get large margins on a clean network, and the more clearly a trigger stands out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.audit import plan
from mmguard.calibrate.audit.changes import Perturbation, Warp
from mmguard.calibrate.audit.class_search import ClassSearch, Ground
from mmguard.calibrate.audit.features import ENOUGH, ClassFeatures, class_features, last_features, run
from mmguard.calibrate.audit.pixels import is_image
from mmguard.calibrate.audit.plan import Effort, OutOfTimeError, TimeBudget, efforts, per_class
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.logits import batched_logits
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.margin_ascent import OnInputs
from mmguard.calibrate.progress import FORWARD
from mmguard.types import FloatArray

Array = npt.NDArray[np.float32]

CHUNK = 200
"""Maximum number of inputs per pass."""
BLOCK = 2**27
"""Maximum count of numbers in the inputs of one step: 512 MiB in float32. With many classes, classes are searched in
blocks."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        margins: margins (K,) float64 by scale. For each class, the mean margin, in logits, of the inputs that the
            search found; at scale `orthogonal`, this margin divided by the mean margin of the clean inputs that the
            network assigns to the class, or 0 if there are too few of them.
        shares: for each scale, the share of its steps that the time budget allowed; 0 for scales that were left out.
    """

    margins: dict[str, FloatArray]
    shares: dict[str, float]

    @property
    def cut(self) -> tuple[str, ...]:
        """Names of the scales that the time budget shortened or left out."""
        return tuple(name for name, share in self.shares.items() if share < 1)


def maximum_margins(
    graph: DifferentiableGraph,
    clean: Array,
    box: Box,
    classes: int,
    bounds: Mapping[str, Array] | None = None,
    seed: int = 0,
    on_inputs: OnInputs = lambda _: None,
    budget: TimeBudget | None = None,
    shares: Mapping[str, float] | None = None,
) -> Found:
    """Search for the largest margin of every class, on the device that `box` is on.

    Args:
        graph: the network; it is moved to the device.
        clean: (N, ...) float32, the clean inputs D.
        box: feasible inputs.
        classes: number of classes K.
        bounds: bounds by value name, float32; if None, the original network is searched.
        seed: random seed. The result depends on nothing else, unless the time budget is too short for all steps.
        on_inputs: called with the number of inputs in each pass; in a pass without gradients, each input counts as
            `FORWARD`.
        budget: limit of the time; None for no limit.
        shares: share of the steps to take, by scale, instead of a budget; 0 leaves out a scale.

    Returns:
        The margins by scale. The scale `warp` is missing unless the inputs are images, and `orthogonal` if the network
        has no features before its logits, or if too few clean inputs are of the same class.
    """
    x = torch.from_numpy(clean).to(box.device)
    tensors = None if bounds is None else {name: torch.from_numpy(each).to(box.device) for name, each in bounds.items()}
    budget = budget or TimeBudget()
    ground, features = _ground(graph.to(box.device), x, box, classes, tensors, on_inputs)
    search = Search(replace(ground, check=budget.check), features, classes, seed)
    margins: dict[str, FloatArray] = {}
    taken = dict.fromkeys(search.works, 0.0)
    for name, share in budget.shares(search.works) if shares is None else _given(shares, search.works):
        try:
            margins[name] = search.scale(name, share)
        except OutOfTimeError:
            break
        taken[name] = share
    return Found(margins, taken)


def search_inputs(clean: Array, classes: int, known: int) -> float:
    """Return the amount of work in `maximum_margins`: the sum of all numbers passed to `on_inputs`.

    Args:
        clean: (N, ...) the clean inputs D.
        classes: number of classes K.
        known: number of classes to which the network assigns enough clean inputs for the scale `orthogonal`; 0 leaves
            the scale out.

    Returns:
        Number of inputs that pass forward and backward through the network.
    """
    scales = efforts(is_image(torch.from_numpy(clean[:1])))
    return len(clean) * FORWARD + sum(
        effort.work(known if name == "orthogonal" else classes) for name, effort in scales.items()
    )


def known_classes(decisions: npt.NDArray[np.int64], classes: int) -> int:
    """Count the classes to which the network assigns enough clean inputs to estimate their features.

    Args:
        decisions: (N,) int64, the network's decisions on D.
        classes: number of classes K.

    Returns:
        Number of classes, from 0 to K.
    """
    return int((np.bincount(decisions, minlength=classes) >= ENOUGH).sum())


class Search:
    """Runs the scales of one search.

    Args:
        ground: the network and the clean inputs.
        features: what is typical of each class; None leaves out the scale `orthogonal`.
        classes: number of classes K.
        seed: random seed; each scale has its own random numbers, so that no scale depends on those before it.

    Attributes:
        works: effort and number of searched classes, by scale.
    """

    def __init__(self, ground: Ground, features: ClassFeatures | None, classes: int, seed: int) -> None:
        self._ground, self._features, self._classes, self._seed = ground, features, classes, seed
        scales = efforts(is_image(ground.clean))
        if features is None:
            del scales["orthogonal"]
        self.works: dict[str, tuple[Effort, int]] = {
            name: (effort, len(self._labels(name))) for name, effort in scales.items()
        }

    def scale(self, name: str, share: float) -> FloatArray:
        """Search at one scale, block by block.

        Args:
            name: name of the scale.
            share: share of the steps to take.

        Returns:
            (K,) float64, as in `Found.margins`.

        Raises:
            OutOfTimeError: the time budget is used up.
        """
        effort, count = self.works[name]
        number = list(self.works).index(name)
        state = np.random.SeedSequence([self._seed, number]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        size = max(1, BLOCK // (per_class(effort.inputs, count) * self._ground.clean[0].numel()))
        labels, margins = self._labels(name), torch.zeros(self._classes, device=self._ground.clean.device)
        for block in labels.split(size):
            margins[block] = self._block(name, ClassSearch(self._ground, block, generator, count, share), effort, block)
        return margins.double().cpu().numpy()

    def _labels(self, name: str) -> Tensor:
        every = torch.arange(self._classes, device=self._ground.clean.device)
        return every[self._features.known] if name == "orthogonal" and self._features is not None else every

    def _block(self, name: str, search: ClassSearch, effort: Effort, labels: Tensor) -> Tensor:
        x = self._ground.clean[:1]
        if name == "orthogonal" and self._features is not None:
            return search.orthogonal(self._features, effort.steps) / self._features.typical[labels]
        if name == "pixels":
            return search.pixels(plan.PLACING_STEPS, effort.steps - plan.PLACING_STEPS)
        if name == "sample":
            return search.alone(effort.steps)
        return search.shared(Perturbation(x, self._ground.box) if name == "shared" else Warp(x), effort.steps)


def _ground(
    graph: DifferentiableGraph,
    x: Tensor,
    box: Box,
    classes: int,
    bounds: Mapping[str, Tensor] | None,
    on_inputs: OnInputs,
) -> tuple[Ground, ClassFeatures | None]:
    """Run the network on D."""
    chunk = inputs_per_pass(graph, x, CHUNK)
    value = last_features(graph, x, classes)
    if value is None:
        logits, features = batched_logits(graph, x, bounds, chunk), None
    else:
        numbers, logits = run(graph, value, x, bounds, chunk)
        features = class_features(value, numbers, logits)
    on_inputs(len(x) * FORWARD)
    known = features is not None and bool(features.known.any())
    return Ground(graph, x, logits.argmax(1).cpu(), box, bounds, chunk, on_inputs), features if known else None


def _given(shares: Mapping[str, float], works: Mapping[str, object]) -> list[tuple[str, float]]:
    return [(name, shares.get(name, 0.0)) for name in works if shares.get(name, 0.0) > 0]
