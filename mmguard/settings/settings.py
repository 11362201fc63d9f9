"""Every constant of calibration, named, and the presets that fix them."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mmguard.errors import OptionError

Objective = Literal["mmac", "mmom", "mmbm"]
Penalty = Literal["margins", "norm", "height"]
Null = Literal["auto", "gaussian", "empirical", "bounded"]


@dataclass(frozen=True)
class Settings:
    """Constants of one calibration.

    Attributes:
        objective: what the bounds minimise: `mmac` keeps the logits (Eq. 4), `mmom` learns from labels (Eq. 5), `mmbm`
            is `mmac` with the penalty of Wang et al. (2022).
        penalty: what λ weighs: `margins`, mean margin of the maximisers (Eq. 4, 5); `norm`, of the bounds (MM-BM);
            `height` of the bounds as a share of their channel's range over D, in units of the variance of the logits.
        only_correct: leave out of D what the original network decides wrongly; without labels nothing is left out.
        rounds: largest number of passes over D, or of alternations of margin search and such a pass.
        tolerance: a change of the objective below this, from one round to the next, ends the rounds; 0 never does.
        bounds_start: the number at which every bound starts. None: each channel's largest activation over D.
        learning_rate: Adam's, on bounds in units of where they start: of each channel's range over D, or of
            `bounds_start`.
        slow_share: share of the rounds, at the end, in which the learning rate is a third of that.
        batch: largest number of clean inputs a descent step. The step takes as many maximisers.
        steps: least number of descent steps a round: where D is small, batches are.
        margin_weight: λ at the start.
        change: mean squared change of the logits on D, as a share of their variance, that λ is steered to.
            None: λ follows the agreement instead.
        agreement: share of D on which both networks must decide the same for λ to rise; of MMOM, share that the clipped
            one must decide as labelled.
        margin_weight_factor: λ is multiplied by this where the agreement was kept, else divided; 1 leaves it constant.
        margin_weight_from, margin_weight_every: first round after which λ may follow the agreement, and rounds from
            then on until it may again.
        maximisers: J of Eq. 4, a class.
        search_budget: largest number of maximisers over all classes; a class keeps at least two.
        shared_share: share of a class's maximisers that one shared perturbation searches; the others are searched each
            by itself.
        search_original: search the original network, not the one that the bounds of the round before clip.
        normalised: steps go by the sign of the gradient, else along the gradient.
        first_steps, warm_steps: ascent steps of a search from the start, and of one that goes on from the round before.
        renew_every: rounds after which the search starts anew; None never does.
        noise: share of uniform noise, the rest a clean input, where a maximiser that is searched by itself starts.
        sample_step: step of such a maximiser, as a share of the input box; along the gradient with respect to a
            position in the box from 0 to 1, unless `normalised`.
        shared_step, shared_radius: step and largest size of the shared perturbation, as shares of the input box.
        hinge: penalise positive margins only. Unhinged, the penalty drives margins down that are negative already.
        folds: parts of D. The null is fitted on each part as bounds clip it that were learned on the others, so that
            it is of inputs which shaped nothing; 1 fits it on the inputs that the bounds were learned on.
        statistics: keys of `mmguard.detection.statistics.STATISTICS`: what the test looks at.
        null: `gaussian`; `empirical`, the rank among the clean inputs; `bounded`, the first but never below the second
            (see `mmguard.detection.mmdf.MmdfTest`); or `auto`: the last where clean inputs are few, else the first
            unless they contradict it, else the second.
        null_power: exponent of the Gaussian null's power transform; 1 is none, None the most likely exponent.
        theta: level of the test.
        disagreement_theta: level of a disagreement (see `mmguard.detection.mmdf.MmdfTest`); None is theta.

    Raises:
        OptionError: an unknown objective or null, no round or fold, a negative or infinite λ, or theta or the budget
            outside (0, 1].
    """

    objective: Objective = "mmac"
    penalty: Penalty = "height"
    only_correct: bool = False
    rounds: int = 20
    tolerance: float = 0.0
    bounds_start: float | None = None
    learning_rate: float = 0.06
    slow_share: float = 1 / 3
    batch: int = 100
    steps: int = 5
    margin_weight: float = 0.1
    change: float | None = 0.03
    agreement: float = 0.95
    margin_weight_factor: float = 1.0
    margin_weight_from: int = 1
    margin_weight_every: int = 1
    maximisers: int = 20
    search_budget: int = 1000
    shared_share: float = 0.5
    search_original: bool = False
    normalised: bool = True
    first_steps: int = 30
    warm_steps: int = 5
    renew_every: int | None = None
    noise: float = 0.3
    sample_step: float = 0.02
    shared_step: float = 2 / 255
    shared_radius: float = 6 / 255
    hinge: bool = True
    folds: int = 5
    statistics: tuple[str, ...] = ("residual_margin_gap", "residual_norm")
    null: Null = "auto"
    null_power: float | None = None
    theta: float = 0.005
    disagreement_theta: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise OptionError(f"objective must be one of {', '.join(get_args(Objective))}, got {self.objective!r}")
        if self.null not in get_args(Null):
            raise OptionError(f"null must be one of {', '.join(get_args(Null))}, got {self.null!r}")
        if not 0 <= self.margin_weight < math.inf:
            raise OptionError(f"margin_weight must be finite and not negative, got {self.margin_weight}")
        if self.change is not None and not 0 < self.change <= 1:
            raise OptionError(f"the budget must be above 0 and at most 1, got {self.change}")
        if self.rounds < 1:
            raise OptionError(f"rounds must be at least 1, got {self.rounds}")
        if self.folds < 1:
            raise OptionError(f"folds must be at least 1, got {self.folds}")
        if not 0 < self.theta <= 1:
            raise OptionError(f"theta must be above 0 and at most 1, got {self.theta}")

    def batch_of(self, n: int) -> int:
        """Clean inputs of one descent step, where D has n of them."""
        return max(1, min(self.batch, n // self.steps))

    def maximisers_of(self, classes: int) -> int:
        """Maximisers of each class, where there are so many classes."""
        return max(2, min(self.maximisers, self.search_budget // classes))

    def as_json(self) -> dict[str, Any]:
        """The constants by name, as JSON gives them back: a tuple is a list."""
        constants: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return constants
