"""Bounds by alternating optimisation (paper, section 3)."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.checkpoint.state import Progress, State, below, bounds_state, prefixed, restore_bounds
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.descent import Descent
from mmguard.calibrate.learning.margin_search import Box, MarginSearch
from mmguard.errors import CleanSetError
from mmguard.settings.settings import Settings
from mmguard.types import Calibration, IntArray


@dataclass(frozen=True)
class Round:
    """One finished round.

    Attributes:
        number: from 1 to `rounds`.
        fit_loss, penalty, margin_weight: the terms of the objective and λ.
        agreement: share of D on which both networks decide the same; for MMOM, that is decided as labelled.
        seconds: since the rounds began. remaining: estimated seconds of the rounds alone, if every one is run.
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
OnInputs = Callable[[float], None]

JUST_WITHIN = 0.999
"""Share of the range over D at which bounds start: those that clip nothing of D would have no gradient from it."""
STEERING = 0.5
"""λ is multiplied by this power of wanted over seen change of the logits, ..."""
STEEPEST = 1.4
"""... but by no more than this, nor by less than its inverse."""


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
        self._clean = torch.from_numpy(np.ascontiguousarray(clean)).to(device)
        self._box = Box(*(torch.from_numpy(np.asarray(end))[None].to(device) for end in box))
        self._generator = torch.Generator().manual_seed(seed)
        self._chunk = inputs_per_pass(self._graph, self._clean, 2 * settings.batch)
        self._original = self._logits(None)
        self._variance = float(self._original.var(dim=0).mean())
        self.original_logits: npt.NDArray[np.float32] = self._original.cpu().numpy()
        if settings.bounds_start is None:
            self._bounds = Bounds.over(self._graph, activations, self._batches(), JUST_WITHIN)
        else:
            self._bounds = Bounds.alike(self._graph, activations, self._clean[:1], settings.bounds_start)
        self._descent = Descent(
            *(self._graph, self._bounds, self._clean, self._original, settings, self._generator, self._chunk)
        )
        self._running: tuple[MarginSearch | None, Progress] | None = None

    def run(
        self, on_round: OnRound, labels: IntArray | None = None, on_inputs: OnInputs = lambda _: None
    ) -> Calibration:
        """Alternate margin search, where margins are penalised, and descent, until all rounds are run.

        Args:
            on_round: called after every round; `state` is then that of the round.
            labels: (N,) int64, of D; only MMOM uses them.
            on_inputs: called with the number of inputs of each pass with its gradient.

        Raises:
            CleanSetError: MMOM, without labels.
        """
        settings = self._settings
        if settings.objective == "mmom":
            if labels is None:
                raise CleanSetError("MMOM learns from labels: give clean inputs in class folders, or an .npz with y")
            self._descent.wanted = torch.from_numpy(labels).to(self._clean.device)
        self._descent.on_inputs = on_inputs
        search, progress = self._running or (self._started_search(on_inputs), Progress(settings.margin_weight))
        if search:
            search.on_inputs = on_inputs
        start, before = time.perf_counter(), progress.number
        while progress.number < settings.rounds and not progress.converged:
            number = progress.number + 1
            self._descent.slow_down(number)
            fit, penalty, agreement = self._descent.descend(*self._maximisers(search, number), progress.weight)
            seconds = time.perf_counter() - start
            remaining = seconds / (number - before) * (settings.rounds - number)
            report = Round(number, settings.rounds, fit, penalty, progress.weight, agreement, seconds, remaining)
            progress = Progress(
                weight=progress.weight * self._weight_factor(report),
                number=number,
                previous=report.objective,
                converged=abs(report.objective - progress.previous) < settings.tolerance,
            )
            self._running = search, progress
            on_round(report)
        return self._finish(progress)

    def state(self) -> State:
        """All that `run` goes on from after a round, as arrays that no later round writes to."""
        assert self._running is not None, "there is no state before the first round"
        search, progress = self._running
        tensors = search.state() if search else {}
        return {
            **progress.state(),
            **prefixed("bounds/", bounds_state(self._descent.optimiser)),
            **prefixed("search/", {name: tensor.cpu().numpy() for name, tensor in tensors.items()}),
            "generator": self._generator.get_state().numpy(),
        }

    def restore(self, state: State) -> None:
        """Let `run` go on from a state, of a calibrator that was made with the same arguments."""
        search = self._search()
        if search:
            search.restore({name: torch.from_numpy(array) for name, array in below("search/", state).items()})
        restore_bounds(self._descent.optimiser, below("bounds/", state))
        self._generator.set_state(torch.from_numpy(state["generator"]))
        self._running = search, Progress.restore(state)

    def clipped_logits(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, K) float32 of inputs (N, ...) float32, by the bounds that were learned."""
        parts = torch.from_numpy(x).to(self._clean.device).split(self._chunk)
        with torch.no_grad():
            return torch.cat([self._graph(part, self._bounds.fixed()) for part in parts]).cpu().numpy()

    def _search(self) -> MarginSearch | None:
        """A search at its start, where margins are penalised."""
        if self._settings.penalty != "margins":
            return None
        classes = self._original.shape[1]
        return MarginSearch(self._graph, self._clean, self._box, classes, self._settings, self._generator)

    def _started_search(self, on_inputs: OnInputs) -> MarginSearch | None:
        """The same, after its first steps, on the original network."""
        search = self._search()
        if search:
            search.on_inputs = on_inputs
            search.ascend(None, self._settings.first_steps)
        return search

    def _maximisers(self, search: MarginSearch | None, number: int) -> tuple[Tensor, Tensor]:
        """Maximisers (M, ...) of a round and their classes (M,), from those of the round before, or anew."""
        if search is None:
            return self._clean[:0], self._descent.wanted[:0]
        settings = self._settings
        bounds = None if settings.search_original else self._bounds.fixed()
        if settings.renew_every and number > 1 and (number - 1) % settings.renew_every == 0:
            search.restart()
            search.ascend(bounds, settings.first_steps)
        search.ascend(bounds, settings.warm_steps)
        return search.maximisers(), search.classes

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

    def _finish(self, progress: Progress) -> Calibration:
        bounds = self._bounds.fixed()
        clipped = self._logits(bounds).cpu().numpy()
        return Calibration(
            bounds={value: bound.cpu().numpy() for value, bound in bounds.items()},
            original_logits=self.original_logits,
            clipped_logits=clipped,
            held_out_logits=clipped,
            rounds=progress.number,
            converged=progress.converged,
        )

    @torch.no_grad()
    def _logits(self, bounds: dict[str, Tensor] | None) -> Tensor:
        return torch.cat([self._graph(x, bounds) for x in self._batches()])

    def _batches(self) -> Iterator[Tensor]:
        return iter(self._clean.split(self._chunk))
