"""The descent: passes over D that move the bounds, maximisers held fixed (paper, section 3.1)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from mmguard.calibrate.graph.autocast import reduced
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.objective import (
    bound_height,
    bound_norm,
    class_margins,
    fit_loss,
    label_loss,
    margin_loss,
)
from mmguard.settings.settings import Settings

SLOW = 1 / 3
"""What the learning rate is multiplied by in the last rounds."""


class Descent:
    """Gradient steps on the bounds of one network.

    Args:
        graph: the network. bounds: moved in place.
        clean: (N, ...) clean inputs D. original: (N, K) logits of the unclipped network on D.
        settings: the objective, the penalty and all steps.
        generator: source of all randomness, on the CPU.
        chunk: inputs of one forward pass, at most.

    Attributes:
        wanted: (N,) int64, the decision that each clean input should get: the original's, or of MMOM its label.
        optimiser: Adam, over the positions of the bounds.
        on_inputs: called with the number of inputs of each pass.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        bounds: Bounds,
        clean: Tensor,
        original: Tensor,
        settings: Settings,
        generator: torch.Generator,
        chunk: int,
    ) -> None:
        self._graph, self._bounds, self._clean, self._original = graph, bounds, clean, original
        self._settings, self._generator, self._chunk = settings, generator, chunk
        self._batch = settings.batch_of(len(clean))
        self._variance = original.var(dim=0).mean()
        self._searches = settings.penalty == "margins"
        self.wanted = original.argmax(1)
        self.optimiser = torch.optim.Adam(bounds.parameters(), lr=settings.learning_rate)
        self.on_inputs: Callable[[float], None] = lambda _: None

    def slow_down(self, number: int) -> None:
        """Lower the learning rate where the last rounds begin."""
        rounds = self._settings.rounds
        slow = number > rounds - int(self._settings.slow_share * rounds)
        for group in self.optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * (SLOW if slow else 1)

    def descend(self, maximisers: Tensor, classes: Tensor, weight: float) -> tuple[float, float, float]:
        """One pass of gradient steps on the bounds over D, maximisers held fixed.

        Returns:
            Means of both terms over the steps, and the share of D that is decided as it should.
        """
        fits, penalties, agreed = [], [], 0
        for rows in self._shuffled():
            chosen = torch.randperm(len(maximisers), generator=self._generator)[: self._batch]
            chosen = chosen.to(maximisers.device)
            fit, penalty, alike = self._step(rows, maximisers[chosen], classes[chosen], weight)
            fits.append(fit)
            penalties.append(penalty)
            agreed += alike
        return float(np.mean(fits)), float(np.mean(penalties)), agreed / len(self._clean)

    def _step(self, rows: Tensor, maximisers: Tensor, classes: Tensor, weight: float) -> tuple[float, float, int]:
        """One step of the optimiser. The gradient is summed over parts that bound the memory.

        Returns:
            Both terms, and how many of the clean inputs `rows` are decided as they should.
        """
        self.optimiser.zero_grad()
        total_fit, total_penalty, alike = 0.0, 0.0, 0
        parts = -(-(len(rows) + len(maximisers)) // self._chunk)
        pieces = (tensor.tensor_split(parts) for tensor in (rows, maximisers, classes))
        for some_rows, some, some_classes in zip(*pieces, strict=True):
            bounds = self._bounds()
            logits = self._run(torch.cat([self._clean[some_rows], some]), bounds)
            clipped, searched = logits.split([len(some_rows), len(some)])
            fit = self._fit(clipped, some_rows) * (len(some_rows) / len(rows)) if len(some_rows) else torch.zeros(())
            if not self._searches:
                penalty = self._size(bounds) / parts
            elif len(some):
                penalty = margin_loss(class_margins(searched, some_classes), self._settings.hinge)
                penalty = penalty * (len(some) / len(maximisers))
            else:
                penalty = torch.zeros(())
            (fit + weight * penalty).backward()
            total_fit += fit.item()
            total_penalty += penalty.item()
            alike += int((clipped.argmax(1) == self.wanted[some_rows]).sum())
            self.on_inputs(len(logits))
        self.optimiser.step()
        self._bounds.project()
        return total_fit, total_penalty, alike

    def _run(self, x: Tensor, bounds: Mapping[str, Tensor]) -> Tensor:
        """Logits (N, K) float32, differentiable with respect to the bounds."""
        with nullcontext() if self._searches else reduced(x.device):
            logits: Tensor = self._graph(x, bounds)
        return logits.float()

    def _size(self, bounds: Mapping[str, Tensor]) -> Tensor:
        """Penalty on the bounds themselves, ()."""
        if self._settings.penalty == "norm":
            return bound_norm(bounds.values())
        return self._variance * bound_height(self._bounds.positions)

    def _fit(self, clipped: Tensor, rows: Tensor) -> Tensor:
        if self._settings.objective == "mmom":
            return label_loss(clipped, self.wanted[rows])
        return fit_loss(clipped, self._original[rows])

    def _shuffled(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self._clean), generator=self._generator).to(self._clean.device)
        return iter(order.split(self._batch))
