"""Learn the bounds of one network by alternating optimisation (paper, section 3).

Each round has two steps:

1. Gradient ascent improves the maximisers, the inputs with the largest margin for each class, with the bounds Z held
   fixed (Eq. 6).
2. Gradient descent improves the bounds, with the maximisers held fixed (Eq. 4 for MMAC, Eq. 5 for MMOM).

The first step is skipped if the penalty needs no maximisers (preset `default`, objective MM-BM).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.box import Box
from mmguard.calibrate.checkpoint.state import RoundState, State, below, bounds_state, prefixed, restore_bounds
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.logits import batched_logits
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.descent import Descent, Terms, largest_pass
from mmguard.calibrate.learning.margin_search import MarginSearch
from mmguard.calibrate.learning.margin_weight import weight_factor
from mmguard.calibrate.margin_ascent import OnInputs
from mmguard.errors import CleanSetError
from mmguard.settings.settings import Settings
from mmguard.types import Calibration, IntArray

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Round:
    """Report on one finished round.

    Attributes:
        number: number of the round, from 1 to `rounds`.
        rounds: maximum number of rounds.
        fit_loss: first term of the objective.
        penalty: second term of the objective, without the factor λ.
        margin_weight: λ in this round.
        agreement: proportion of D on which both networks make the same decision; for MMOM, proportion of D on which the
            clipped network predicts the label.
        seconds: seconds since the first round began.
        remaining: estimated seconds until all rounds are done, excluding the audit and the writing of the bundle.
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
        """Value of the objective in this round (for MMAC, the value of Eq. 4)."""
        return self.fit_loss + self.margin_weight * self.penalty


OnRound = Callable[[Round], None]

JUST_WITHIN = 0.999
"""Initial position of the bounds, as a fraction of each channel's range over D.

The position is below 1 because bounds that clip no activation on D would get no gradient from the clean inputs.
"""


class Calibrator:
    """Learns the bounds of one network, on the device that `box` is on.

    Args:
        graph: the original network; it is moved to the device.
        activations: channel axis, 1 or -1, of each clip site, by value name.
        clean: (N, ...) float32, the clean inputs D.
        box: feasible inputs.
        settings: settings of the calibration.
        seed: random seed.
        original_logits: (N, K) float32, logits of the original network on D, as returned by `logits_on`; if None, the
            logits are computed.

    Attributes:
        original_logits: (N, K) float32, logits of the original network on D.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        activations: Mapping[str, int],
        clean: Array,
        box: Box,
        settings: Settings,
        seed: int = 0,
        original_logits: Array | None = None,
    ) -> None:
        self._settings = settings
        self._graph = graph.to(box.device)
        self._clean = torch.from_numpy(np.ascontiguousarray(clean)).to(box.device)
        self._generator = torch.Generator().manual_seed(seed)
        self._chunk = inputs_per_pass(self._graph, self._clean, largest_pass(settings))
        original = self._logits(None) if original_logits is None else torch.from_numpy(original_logits).to(box.device)
        self.original_logits: Array = original.cpu().numpy()
        self._variance = float(original.var(dim=0).mean())
        if settings.bounds_start is None:
            self._bounds = Bounds.over(self._graph, activations, iter(self._clean.split(self._chunk)), JUST_WITHIN)
        else:
            self._bounds = Bounds.alike(self._graph, activations, self._clean[:1], settings.bounds_start)
        self._descent = Descent(
            self._graph, self._bounds, self._clean, original, settings, self._generator, self._chunk
        )
        self._search: MarginSearch | None = None
        if settings.penalty == "margins":
            classes = original.shape[1]
            self._search = MarginSearch(self._graph, self._clean, box, classes, settings, self._generator)
        self._finished = RoundState(settings.margin_weight)

    def run(
        self, on_round: OnRound, labels: IntArray | None = None, on_inputs: OnInputs = lambda _: None
    ) -> Calibration:
        """Alternate margin search and descent until all rounds are done or the objective stops changing.

        Args:
            on_round: called after every round; `state` then returns the state after that round.
            labels: (N,) int64, labels of D; only MMOM uses them.
            on_inputs: called with the number of inputs in each pass that computes a gradient.

        Returns:
            The learned bounds, and the logits on D.

        Raises:
            CleanSetError: the objective is MMOM and there are no labels.
        """
        self._prepare(labels, on_inputs)
        start, before = time.perf_counter(), self._finished.number
        while self._finished.number < self._settings.rounds and not self._finished.converged:
            number = self._finished.number + 1
            maximisers, classes = self._maximise_margins(number)
            terms = self._minimise_objective(number, maximisers, classes)
            seconds = time.perf_counter() - start
            left = seconds / (number - before) * (self._settings.rounds - number)
            on_round(self._finish_round(number, terms, seconds, left))
        return self._learned()

    def _prepare(self, labels: IntArray | None, on_inputs: OnInputs) -> None:
        """Set the labels that MMOM learns from, and the function to call with the number of inputs in each pass."""
        if self._settings.objective == "mmom":
            if labels is None:
                raise CleanSetError(
                    "MMOM learns from labels, but the calibration set has no labels; provide one folder of images per "
                    "class, an .npz file with y, or a .csv file with a column named label"
                )
            self._descent.targets = torch.from_numpy(labels).to(self._clean.device)
        self._descent.on_inputs = on_inputs
        if self._search:
            self._search.on_inputs = on_inputs

    def _maximise_margins(self, number: int) -> tuple[Tensor, Tensor]:
        """Step 1: improve the maximisers with the bounds held fixed; return maximisers (M, ...) and classes (M,)."""
        search, settings = self._search, self._settings
        if search is None:
            return self._clean[:0], self._descent.targets[:0]
        if number == 1:
            search.ascend(None, settings.first_steps)  # the initial bounds clip almost nothing
        bounds = None if settings.search_original else self._bounds.fixed()
        if settings.renew_every and number > 1 and (number - 1) % settings.renew_every == 0:
            search.restart()
            search.ascend(bounds, settings.first_steps)
        search.ascend(bounds, settings.warm_steps)
        return search.maximisers(), search.classes

    def _minimise_objective(self, number: int, maximisers: Tensor, classes: Tensor) -> Terms:
        """Step 2: improve the bounds with the maximisers held fixed, in one pass over D."""
        self._descent.start_round(number)
        return self._descent.descend(maximisers, classes, self._finished.weight)

    def _finish_round(self, number: int, terms: Terms, seconds: float, remaining: float) -> Round:
        """Set λ for the next round, check whether the objective has converged, and return the report on this round."""
        settings, weight = self._settings, self._finished.weight
        report = Round(
            *(number, settings.rounds, terms.fit, terms.penalty, weight, terms.agreement, seconds, remaining)
        )
        self._finished = RoundState(
            weight=weight * weight_factor(settings, number, terms.fit, terms.agreement, self._variance),
            number=number,
            previous=report.objective,
            converged=abs(report.objective - self._finished.previous) < settings.tolerance,
        )
        return report

    def _learned(self) -> Calibration:
        bounds = self._bounds.fixed()
        clipped = self._logits(bounds).cpu().numpy()
        return Calibration(
            bounds={value: bound.cpu().numpy() for value, bound in bounds.items()},
            original_logits=self.original_logits,
            clipped_logits=clipped,
            held_out_logits=clipped,
            rounds=self._finished.number,
            converged=self._finished.converged,
        )

    def _logits(self, bounds: Mapping[str, Tensor] | None) -> Tensor:
        return batched_logits(self._graph, self._clean, bounds, self._chunk)

    def clipped_logits(self, x: Array) -> Array:
        """Return the logits of the network that is clipped by the learned bounds.

        Args:
            x: (N, ...) float32 inputs.

        Returns:
            (N, K) float32 logits.
        """
        inputs = torch.from_numpy(x).to(self._clean.device)
        return batched_logits(self._graph, inputs, self._bounds.fixed(), self._chunk).cpu().numpy()

    def state(self) -> State:
        """Return everything that `run` needs to continue after the last finished round.

        Returns:
            Arrays by name; later rounds do not modify them.
        """
        assert self._finished.number, "there is no state before the first round"
        tensors = self._search.state() if self._search else {}
        return {
            **self._finished.state(),
            **prefixed("bounds/", bounds_state(self._descent.optimiser)),
            **prefixed("search/", {name: tensor.cpu().numpy() for name, tensor in tensors.items()}),
            "generator": self._generator.get_state().numpy(),
        }

    def restore(self, state: State) -> None:
        """Restore a saved state, from which `run` then continues.

        Args:
            state: state from the method `state` of a calibrator that was created with the same arguments.
        """
        if self._search:
            self._search.restore({name: torch.from_numpy(array) for name, array in below("search/", state).items()})
        restore_bounds(self._descent.optimiser, below("bounds/", state))
        self._generator.set_state(torch.from_numpy(state["generator"]))
        self._finished = RoundState.restore(state)
