"""Bounds by alternating optimisation (paper, section 3)."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.bounds import Bounds
from mmguard.calibrate.graph import DifferentiableGraph
from mmguard.calibrate.objective import bound_height, bound_norm, class_margins, fit_loss, label_loss, margin_loss
from mmguard.calibrate.precision import reduced
from mmguard.calibrate.search import Box, MarginSearch, chunk_size
from mmguard.calibrate.settings import Settings
from mmguard.errors import CleanSetError
from mmguard.types import Calibration, IntArray


@dataclass(frozen=True)
class Round:
    """One finished round.

    Attributes:
        number: from 1 to `rounds`.
        fit_loss, penalty, margin_weight: the terms of the objective and λ.
        agreement: share of D on which both networks decide the same; for MMOM, that is decided as labelled.
        seconds: since calibration began. remaining: estimated seconds, if every round is run.
    """

    number: int
    rounds: int
    fit_loss: float
    penalty: float
    margin_weight: float
    agreement: float
    seconds: float
    remaining: float

    @property
    def objective(self) -> float:
        """The value of the objective, such as Eq. 4."""
        return self.fit_loss + self.margin_weight * self.penalty


OnRound = Callable[[Round], None]

JUST_WITHIN = 0.999
"""Share of the range over D at which bounds start: those that clip nothing of D would have no gradient from it."""
STEERING = 0.5
"""λ is multiplied by this power of wanted over seen change of the logits, ..."""
STEEPEST = 1.4
"""... but by no more than this, nor by less than its inverse."""
SLOW = 1 / 3
"""What the learning rate is multiplied by in the last rounds."""


class Calibrator:
    """Learns the bounds of one network.

    Args:
        graph: the original network.
        activations: channel axis, 1 or -1, by name of each value to clip.
        clean: (N, ...) float32, the clean set D.
        box: low and high of the feasible inputs, float32, broadcastable against one input.
        settings: all constants.
        seed: seeds all randomness.
        device: torch device, such as `cpu` or `cuda`.

    Attributes:
        original_logits: (|D|, K) float32, of the original network on D.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        activations: Mapping[str, int],
        clean: npt.NDArray[np.float32],
        box: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
        settings: Settings,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._settings = settings
        self._graph = graph.to(device)
        self._clean = torch.from_numpy(clean).to(device)
        self._box = Box(*(torch.from_numpy(np.asarray(end))[None].to(device) for end in box))
        self._generator = torch.Generator().manual_seed(seed)
        self._chunk = chunk_size(self._clean, settings)
        self._batch = max(1, min(settings.batch, len(clean) // settings.steps))
        self._original = self._logits(None)
        self._wanted = self._original.argmax(1)
        self._variance = float(self._original.var(dim=0).mean())
        self.original_logits: npt.NDArray[np.float32] = self._original.cpu().numpy()
        if settings.bounds_start is None:
            self._bounds = Bounds.over(self._graph, activations, self._batches(), JUST_WITHIN)
        else:
            self._bounds = Bounds.alike(self._graph, activations, self._clean[:1], settings.bounds_start)
        self._optimiser = torch.optim.Adam(self._bounds.parameters(), lr=settings.learning_rate)

    def run(self, on_round: OnRound, labels: IntArray | None = None) -> Calibration:
        """Learn, and search the maximum margins of the network before and after.

        Args:
            on_round: called after every round.
            labels: (N,) int64, of D; only MMOM uses them.

        Raises:
            CleanSetError: MMOM, without labels.
        """
        search = self._started_search()
        original_margins = search.margins(None)
        last, converged = self.learn(on_round, labels, search)
        if not self._searches or self._settings.search_original:
            search.ascend(self._bounds.fixed(), self._settings.first_steps)
        return self._finish(last, converged, original_margins, search.margins(self._bounds.fixed()))

    def learn(
        self, on_round: OnRound, labels: IntArray | None = None, search: MarginSearch | None = None
    ) -> tuple[Round, bool]:
        """Alternate margin search, where margins are penalised, and descent, until all rounds are run.

        Args:
            on_round: called after every round.
            labels: (N,) int64, of D; only MMOM uses them.
            search: goes on from its maximisers; None starts one.

        Returns:
            The last round, and whether it ended because the objective no longer changed.

        Raises:
            CleanSetError: MMOM, without labels.
        """
        settings, weight = self._settings, self._settings.margin_weight
        if settings.objective == "mmom":
            if labels is None:
                raise CleanSetError("MMOM learns from labels: give clean inputs in class folders, or an .npz with y")
            self._wanted = torch.from_numpy(labels).to(self._clean.device)
        if self._searches and search is None:
            search = self._started_search()
        start, previous, converged = time.perf_counter(), np.inf, False
        for number in range(1, settings.rounds + 1):
            self._slow_down(number)
            maximisers, classes = self._maximisers(search, number)
            fit, penalty, agreement = self._descend(maximisers, classes, weight)
            seconds = time.perf_counter() - start
            remaining = seconds / number * (settings.rounds - number)
            report = Round(number, settings.rounds, fit, penalty, weight, agreement, seconds, remaining)
            on_round(report)
            converged = abs(report.objective - previous) < settings.tolerance
            if converged:
                break
            previous = report.objective
            weight *= self._weight_factor(report)
        return report, converged

    def clipped_logits(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, K) float32 of inputs (N, ...) float32, by the bounds that were learned."""
        parts = torch.from_numpy(x).to(self._clean.device).split(self._chunk)
        with torch.no_grad():
            return torch.cat([self._graph(part, self._bounds.fixed()) for part in parts]).cpu().numpy()

    @property
    def _searches(self) -> bool:
        """Whether every round searches margins."""
        return self._settings.penalty == "margins"

    def _started_search(self) -> MarginSearch:
        """Maximisers of the original network."""
        classes = self._original.shape[1]
        search = MarginSearch(self._graph, self._clean, self._box, classes, self._settings, self._generator)
        search.ascend(None, self._settings.first_steps)
        return search

    def _maximisers(self, search: MarginSearch | None, number: int) -> tuple[Tensor, Tensor]:
        """Maximisers (M, ...) of a round and their classes (M,): from the round before, or anew. None if no penalty is
        on margins.
        """
        if not self._searches or search is None:
            return self._clean[:0], self._wanted[:0]
        settings = self._settings
        bounds = None if settings.search_original else self._bounds.fixed()
        if settings.renew_every and number > 1 and (number - 1) % settings.renew_every == 0:
            search.restart()
            search.ascend(bounds, settings.first_steps)
        search.ascend(bounds, settings.warm_steps)
        return search.maximisers(), search.classes

    def _slow_down(self, number: int) -> None:
        """Lower the learning rate where the last rounds begin."""
        rounds = self._settings.rounds
        slow = number > rounds - int(self._settings.slow_share * rounds)
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * (SLOW if slow else 1)

    def _weight_factor(self, report: Round) -> float:
        """What λ is multiplied by after a round."""
        settings = self._settings
        if settings.change is not None:
            wanted = settings.change * self._variance
            return float(np.clip((wanted / max(report.fit_loss, 1e-12)) ** STEERING, 1 / STEEPEST, STEEPEST))
        waited = report.number - settings.margin_weight_from
        if waited < 0 or waited % settings.margin_weight_every:
            return 1.0
        kept = report.agreement >= settings.agreement
        return settings.margin_weight_factor if kept else 1 / settings.margin_weight_factor

    def _descend(self, maximisers: Tensor, classes: Tensor, weight: float) -> tuple[float, float, float]:
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
        self._optimiser.zero_grad()
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
            alike += int((clipped.argmax(1) == self._wanted[some_rows]).sum())
        self._optimiser.step()
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
            return label_loss(clipped, self._wanted[rows])
        return fit_loss(clipped, self._original[rows])

    def _finish(self, last: Round, converged: bool, original_margins: Tensor, clipped_margins: Tensor) -> Calibration:
        bounds = self._bounds.fixed()
        clipped = self._logits(bounds)
        return Calibration(
            bounds={value: bound.cpu().numpy() for value, bound in bounds.items()},
            original_logits=self.original_logits,
            clipped_logits=clipped.cpu().numpy(),
            held_out_logits=clipped.cpu().numpy(),
            original_margins=original_margins.double().cpu().numpy(),
            clipped_margins=clipped_margins.double().cpu().numpy(),
            rounds=last.number,
            converged=converged,
        )

    @torch.no_grad()
    def _logits(self, bounds: dict[str, Tensor] | None) -> Tensor:
        return torch.cat([self._graph(x, bounds) for x in self._batches()])

    def _batches(self) -> Iterator[Tensor]:
        return iter(self._clean.split(self._chunk))

    def _shuffled(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self._clean), generator=self._generator).to(self._clean.device)
        return iter(order.split(self._batch))
