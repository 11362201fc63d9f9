"""Margin search: find the inputs that the network assigns to each class most confidently (paper, Eq. 6).

The search combines two kinds of maximisers. Maximisers of the first kind are changed independently within the input
box; they find the weakness that a strong or local trigger exploits. Maximisers of the second kind are clean inputs that
share one small perturbation per class; they find the weakness that a faint global trigger exploits, because the same
faint trigger works on every input. Each round continues from the maximisers of the previous round.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.descent import largest_pass
from mmguard.calibrate.learning.objective import class_margins
from mmguard.calibrate.margin_ascent import OnInputs, ascend, margin_gradients
from mmguard.settings.settings import Settings


class MarginSearch:
    """Maximisers of every class's margin, kept and improved from round to round.

    Args:
        graph: the network to search; the bounds are passed to `ascend` and `margins`.
        clean: (N, ...) clean inputs D, from which the maximisers start.
        box: feasible inputs.
        classes: number of classes K.
        settings: settings for the number of maximisers, and for the number and size of steps.
        generator: random number generator, on the CPU.

    Attributes:
        on_inputs: called with the number of inputs in each pass that computes a gradient.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        clean: Tensor,
        box: Box,
        classes: int,
        settings: Settings,
        generator: torch.Generator,
    ) -> None:
        self._graph, self._clean, self._box, self._settings = graph, clean, box, settings
        self._generator = generator
        self.on_inputs: OnInputs = lambda _: None
        self._chunk = inputs_per_pass(graph, clean, largest_pass(settings))
        each = settings.maximisers_of(classes)
        alone = int(each * (1 - settings.shared_share))
        every_class = torch.arange(classes, device=clean.device)
        self._alone_classes = every_class.repeat_interleave(alone)
        self._shared_classes = every_class.repeat_interleave(each - alone)
        self._perturbations = torch.zeros(classes, *clean.shape[1:], device=clean.device)
        self.restart()

    @property
    def classes(self) -> Tensor:
        """(M,) int64, for each maximiser, the class whose margin the search increases; the classes never change."""
        return torch.cat([self._alone_classes, self._shared_classes])

    def restart(self) -> None:
        """Discard all maximisers and draw new starting points."""
        self._alone = self._start(len(self._alone_classes))
        self._perturbations = torch.zeros_like(self._perturbations)
        self._bases = self._draw(len(self._shared_classes))

    def state(self) -> dict[str, Tensor]:
        """Return the state from which the next round continues.

        Returns:
            Tensors by name; later steps do not modify them.
        """
        return {"alone": self._alone, "perturbations": self._perturbations, "bases": self._bases}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a saved state, from which the next round then continues.

        Args:
            state: state returned by `state`, on any device.
        """
        device = self._clean.device
        self._alone, self._perturbations = state["alone"].to(device), state["perturbations"].to(device)
        self._bases = state["bases"].to(device)

    def maximisers(self) -> Tensor:
        """Return the maximisers found so far.

        Returns:
            (M, ...) feasible inputs, in the order of `classes`.
        """
        return torch.cat([self._alone, self._shared()])

    def ascend(self, bounds: Mapping[str, Tensor] | None, steps: int) -> None:
        """Improve the maximisers with the bounds held fixed; shared perturbations use newly drawn clean inputs.

        Args:
            bounds: bounds by value name; if None, the original network is searched.
            steps: number of ascent steps.
        """
        self._bases = self._draw(len(self._shared_classes))
        for _ in range(steps):
            if len(self._alone):
                self._move_alone(self._gradients(self._alone, self._alone_classes, bounds))
            if len(self._bases):
                self._move_perturbations(self._gradients(self._shared(), self._shared_classes, bounds))

    @torch.no_grad()
    def margins(self, bounds: Mapping[str, Tensor] | None) -> Tensor:
        """Return the mean margin that the maximisers of each class reach, computed in float32.

        Args:
            bounds: bounds by value name; if None, the original network is evaluated.

        Returns:
            (K,) mean margins by class.
        """
        batches = zip(self.maximisers().split(self._chunk), self.classes.split(self._chunk), strict=True)
        margins = torch.cat([class_margins(self._graph(x, bounds), classes) for x, classes in batches])
        totals = torch.zeros(len(self._perturbations), device=margins.device).index_add_(0, self.classes, margins)
        return totals / torch.bincount(self.classes)

    def _start(self, count: int) -> Tensor:
        """Mix clean inputs with uniform noise from the box."""
        clean, noise = self._draw(count), torch.rand(count, *self._clean.shape[1:], generator=self._generator)
        share = self._settings.noise
        return (1 - share) * clean + share * (self._box.low + noise.to(clean.device) * self._box.width)

    def _draw(self, count: int) -> Tensor:
        rows = torch.randint(len(self._clean), (count,), generator=self._generator)
        return self._clean[rows.to(self._clean.device)]

    def _shared(self) -> Tensor:
        return self._box.clamp(self._bases + self._perturbations[self._shared_classes])

    def _move_alone(self, gradients: Tensor) -> None:
        size = self._settings.sample_step * self._box.width
        self._alone = ascend(self._alone, size, self._direction(gradients), self._box)

    def _move_perturbations(self, gradients: Tensor) -> None:
        """Move each perturbation one step along the summed gradient of all inputs that share it."""
        total = torch.zeros_like(self._perturbations).index_add_(0, self._shared_classes, gradients)
        size, limits = self._settings.shared_step * self._box.width, self._box.changes(self._settings.shared_radius)
        self._perturbations = ascend(self._perturbations, size, self._direction(total), limits)

    def _direction(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient, or the gradient multiplied by the width of the box."""
        return gradient.sign() if self._settings.normalised else gradient * self._box.width

    def _gradients(self, x: Tensor, classes: Tensor, bounds: Mapping[str, Tensor] | None) -> Tensor:
        return margin_gradients(self._graph, bounds, x, classes, self._chunk, self.on_inputs)
