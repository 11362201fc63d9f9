"""Gradient descent on the bounds, with the maximisers held fixed (paper, section 3.1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
from mmguard.calibrate.margin_ascent import OnInputs, autocast_logits
from mmguard.settings.settings import Settings

SLOW = 1 / 3
"""Factor by which the learning rate is multiplied in the last rounds."""


def largest_pass(settings: Settings) -> int:
    """Return the maximum number of inputs per pass: a batch of clean inputs plus the same number of maximisers.

    Args:
        settings: settings of the calibration.

    Returns:
        A number of at least 2; `mmguard.calibrate.graph.memory.inputs_per_pass` may reduce this number to save memory.
    """
    return 2 * settings.batch


@dataclass(frozen=True)
class Terms:
    """Results of one pass over D.

    Attributes:
        fit: first term of the objective, averaged over the steps.
        penalty: second term of the objective, without the factor λ, averaged over the steps.
        agreement: proportion of D that the clipped network assigns to the target class (see `Descent.targets`).
    """

    fit: float
    penalty: float
    agreement: float


class Descent:
    """Gradient descent on the bounds of one network.

    Args:
        graph: the network.
        bounds: bounds to learn, changed in place.
        clean: (N, ...) clean inputs D.
        original: (N, K) logits of the original network on D.
        settings: settings for the objective, the penalty, and the number and size of steps.
        generator: random number generator, on the CPU.
        chunk: maximum number of inputs per pass.

    Attributes:
        targets: (N,) int64, target class of each clean input: the original network's decision or, for MMOM, the label.
        optimiser: Adam optimiser of the positions of the bounds.
        on_inputs: called with the number of inputs in each pass.
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
        self.targets = original.argmax(1)
        self.optimiser = torch.optim.Adam(bounds.parameters(), lr=settings.learning_rate)
        self.on_inputs: OnInputs = lambda _: None

    def start_round(self, number: int) -> None:
        """Set the learning rate for a round; the learning rate is lower in the last rounds.

        Args:
            number: number of the round, counted from 1.
        """
        rounds = self._settings.rounds
        slow = number > rounds - int(self._settings.slow_share * rounds)
        for group in self.optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * (SLOW if slow else 1)

    def descend(self, maximisers: Tensor, classes: Tensor, weight: float) -> Terms:
        """Make one pass over D, taking one gradient step on the bounds per batch, with the maximisers held fixed.

        Args:
            maximisers: (M, ...) inputs with large margins; empty if the penalty needs no maximisers.
            classes: (M,) int64, the class of each maximiser.
            weight: λ, the weight of the penalty.

        Returns:
            The terms of the objective and the agreement.
        """
        fits, penalties, agreed = [], [], 0
        for rows in self._shuffled():
            chosen = torch.randperm(len(maximisers), generator=self._generator)[: self._batch]
            chosen = chosen.to(maximisers.device)
            fit, penalty, agreeing = self._step(rows, maximisers[chosen], classes[chosen], weight)
            fits.append(fit)
            penalties.append(penalty)
            agreed += agreeing
        return Terms(float(np.mean(fits)), float(np.mean(penalties)), agreed / len(self._clean))

    def _step(self, rows: Tensor, maximisers: Tensor, classes: Tensor, weight: float) -> tuple[float, float, int]:
        """Take one optimiser step. To limit memory use, the batch is run in parts, and the gradients are summed.

        Returns:
            The two terms of the objective, and the number of clean inputs in `rows` that the clipped network assigns to
            their target class.
        """
        self.optimiser.zero_grad()
        total_fit, total_penalty, agreeing = 0.0, 0.0, 0
        parts = -(-(len(rows) + len(maximisers)) // self._chunk)
        pieces = (tensor.tensor_split(parts) for tensor in (rows, maximisers, classes))
        for some_rows, some, some_classes in zip(*pieces, strict=True):
            bounds = self._bounds()
            logits = self._run(torch.cat([self._clean[some_rows], some]), bounds)
            clipped, searched = logits.split([len(some_rows), len(some)])
            fit = self._fit(clipped, some_rows) * (len(some_rows) / len(rows)) if len(some_rows) else torch.zeros(())
            if not self._searches:
                penalty = self._penalty(bounds) / parts
            elif len(some):
                penalty = margin_loss(class_margins(searched, some_classes), self._settings.hinge)
                penalty = penalty * (len(some) / len(maximisers))
            else:
                penalty = torch.zeros(())
            (fit + weight * penalty).backward()
            total_fit += fit.item()
            total_penalty += penalty.item()
            agreeing += int((clipped.argmax(1) == self.targets[some_rows]).sum())
            self.on_inputs(len(logits))
        self.optimiser.step()
        self._bounds.project()
        return total_fit, total_penalty, agreeing

    def _run(self, x: Tensor, bounds: Mapping[str, Tensor]) -> Tensor:
        """Return logits (N, K) float32, differentiable with respect to the bounds."""
        if not self._searches:
            return autocast_logits(self._graph, bounds, x)
        logits: Tensor = self._graph(x, bounds)
        return logits.float()

    def _penalty(self, bounds: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty on the bounds, a scalar tensor."""
        if self._settings.penalty == "norm":
            return bound_norm(bounds.values())
        return self._variance * bound_height(self._bounds.positions)

    def _fit(self, clipped: Tensor, rows: Tensor) -> Tensor:
        if self._settings.objective == "mmom":
            return label_loss(clipped, self.targets[rows])
        return fit_loss(clipped, self._original[rows])

    def _shuffled(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self._clean), generator=self._generator).to(self._clean.device)
        return iter(order.split(self._batch))
