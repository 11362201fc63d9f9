"""Every constant of a calibration, with its meaning and the range of its values."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from mmguard.errors import OptionError
from mmguard.settings.rules import (
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    POWER,
    SHARE,
    Rule,
    one_of,
    some_of,
    whole,
)

Objective = Literal["mmac", "mmom", "mmbm"]
Penalty = Literal["margins", "norm", "height"]
Null = Literal["auto", "gaussian", "empirical", "bounded"]
StatisticName = Literal[
    "margin_gap",
    "residual_margin_gap",
    "residual_norm",
    "centred_residual_norm",
    "activation_distance",
    "activation_excess",
    "supported_margin_gap",
    "original_margin",
]

RULES: dict[str, Rule] = {
    "objective": one_of(get_args(Objective)),
    "penalty": one_of(get_args(Penalty)),
    "only_correct": FLAG,
    "rounds": whole(1),
    "tolerance": NOT_NEGATIVE,
    "bounds_start": POSITIVE.or_none(),
    "learning_rate": POSITIVE,
    "slow_share": SHARE,
    "batch": whole(1),
    "steps": whole(1),
    "margin_weight": NOT_NEGATIVE,
    "budget": POSITIVE_SHARE.or_none(),
    "agreement": SHARE,
    "margin_weight_factor": POSITIVE,
    "margin_weight_from": whole(0),
    "margin_weight_every": whole(1),
    "maximisers": whole(1),
    "search_budget": whole(1),
    "shared_share": SHARE,
    "search_original": FLAG,
    "normalised": FLAG,
    "first_steps": whole(0),
    "warm_steps": whole(0),
    "renew_every": whole(1).or_none(),
    "noise": SHARE,
    "sample_step": POSITIVE,
    "shared_step": POSITIVE,
    "shared_radius": POSITIVE,
    "hinge": FLAG,
    "folds": whole(1),
    "statistics": some_of(get_args(StatisticName)),
    "null": one_of(get_args(Null)),
    "null_power": POWER.or_none(),
    "theta": POSITIVE_SHARE,
    "disagreement_theta": SHARE.or_none(),
}
"""The rule for each field of `Settings`."""


@dataclass(frozen=True)
class Settings:
    """All constants of one calibration.

    `preset` returns the settings of a preset, and `dataclasses.replace` changes any of them. Below, D is the
    calibration set and λ is the weight of the penalty.

    Attributes:
        objective: the objective that learning minimises: `mmac` preserves the logits (Eq. 4), `mmom` learns from labels
            (Eq. 5), and `mmbm` is `mmac` with the penalty of Wang et al. (2022).
        penalty: the quantity that λ is multiplied by: `margins`, the mean margin of the maximisers (Eq. 4 and 5);
            `norm`, the norm of the bounds (MM-BM); or `height`, the mean square root of the bounds' heights, multiplied
            by the variance of the logits. The height of a bound is its share of its channel's range over D.
        only_correct: whether to drop inputs of D that the original network misclassifies. Unlabelled inputs are kept.
        rounds: maximum number of rounds. A round is one pass over D, after a margin search if the penalty is `margins`.
        tolerance: learning stops when the objective changes by less than this value from one round to the next; with 0,
            all rounds are run.
        bounds_start: initial value of every bound, in units of the activations. With None, each bound starts at the
            largest activation of its channel over D.
        learning_rate: Adam's learning rate, as a share of `bounds_start` or, if `bounds_start` is None, of each
            channel's range over D.
        slow_share: share of the rounds, at the end of learning, in which the learning rate is reduced to a third.
        batch: maximum number of clean inputs in a descent step. The same limit applies to the maximisers in the step.
        steps: minimum number of descent steps in a round. If D is small, the batches are made smaller to allow for
            this many steps.
        margin_weight: initial value of λ.
        budget: target for the change that clipping causes in the logits on D: the mean squared change of the logits, as
            a share of their variance. λ is adjusted after every round to reach this target. If `budget` is None, λ is
            adjusted according to `agreement` instead.
        agreement: share of D on which both networks must make the same decision for λ to rise. For MMOM, share of D
            that the clipped network must classify correctly for λ to rise.
        margin_weight_factor: factor by which λ is multiplied if the share given by `agreement` was reached, and by
            which λ is divided otherwise. 1 keeps λ constant.
        margin_weight_from: first round after which λ may be adjusted according to `agreement`.
        margin_weight_every: number of rounds between two adjustments of λ according to `agreement`.
        maximisers: number of maximisers per class (J in Eq. 4).
        search_budget: maximum total number of maximisers over all classes. Each class has at least two maximisers, even
            if the total then exceeds this maximum.
        shared_share: share of a class's maximisers that are clean inputs plus one perturbation, which is the same for
            all these inputs. The remaining maximisers are searched individually.
        search_original: whether the margin search runs on the original network instead of the clipped network.
        normalised: whether ascent steps follow the sign of the gradient instead of the gradient itself.
        first_steps: number of ascent steps of a search that starts from scratch.
        warm_steps: number of ascent steps of a search that continues from the previous round.
        renew_every: number of rounds after which the search starts from scratch again; None never restarts the search.
        noise: weight w of the uniform noise in the starting point of an individually searched maximiser. The weight of
            the clean input in the starting point is 1 - w.
        sample_step: step size of an individually searched maximiser, as a share of the input box. Without `normalised`,
            the step size is multiplied by the gradient with respect to the position in the box, where positions run
            from 0 to 1.
        shared_step: step size of the shared perturbation, as a share of the input box.
        shared_radius: maximum size of the shared perturbation, as a share of the input box.
        hinge: whether to penalise only positive margins. Without the hinge, negative margins are
            reduced further.
        folds: number of parts of D for cross-fitting. The null is fitted to results for which each part was
            clipped by bounds learned from the other parts. With 1, there is no cross-fitting: the null is fitted to the
            inputs that the bounds were learned from.
        statistics: names of the test's statistics, which are keys of `mmguard.detection.statistics.STATISTICS`.
        null: how p-values are computed: `gaussian` uses the fitted Gaussian; `empirical` uses the rank among the clean
            inputs; `bounded` uses the larger of the Gaussian p-value and a p-value from the rank (see
            `mmguard.detection.mmdf.MmdfTest`). `auto` chooses `bounded` if there are few clean inputs, otherwise
            `gaussian` or, if the clean inputs contradict the Gaussian, `empirical`.
        null_power: exponent of the Gaussian null's power transform. 1 applies no transform; None uses the maximum
            likelihood estimate of the exponent.
        theta: significance level θ of the test.
        disagreement_theta: significance level for inputs on which the networks disagree (see
            `mmguard.detection.mmdf.MmdfTest`); None uses `theta`.

    Raises:
        OptionError: A field is out of range; `RULES` contains the ranges.
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
    budget: float | None = 0.03
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
    statistics: tuple[StatisticName, ...] = (
        "supported_margin_gap",
        "residual_norm",
        "activation_distance",
        "activation_excess",
        "original_margin",
    )
    null: Null = "auto"
    null_power: float | None = None
    theta: float = 0.005
    disagreement_theta: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            rule, value = RULES[field.name], getattr(self, field.name)
            if not rule.holds(value):
                raise OptionError(f"{field.name} must be {rule.expected}, got {value!r}")

    @property
    def held_out(self) -> bool:
        """Whether the null is fitted to inputs that the bounds were not learned from."""
        return self.folds > 1

    @property
    def level_of_disagreement(self) -> float:
        """Significance level for inputs on which the networks disagree."""
        return self.theta if self.disagreement_theta is None else self.disagreement_theta

    def batch_of(self, n: int) -> int:
        """Return the number of clean inputs in one descent step.

        Args:
            n: number of inputs in D.
        """
        return max(1, min(self.batch, n // self.steps))

    def maximisers_of(self, classes: int) -> int:
        """Return the number of maximisers per class.

        Args:
            classes: number K of classes.
        """
        return max(2, min(self.maximisers, self.search_budget // classes))

    def adjusted(self, **overrides: Any) -> Self:
        """Return these settings with some values replaced.

        Args:
            **overrides: new values of any of `theta`, `rounds`, `budget`, `margin_weight` and `null`; None keeps the
                current value.

        Returns:
            The adjusted settings.

        Raises:
            OptionError: A value is out of range, `theta` or `null` is given although the objective makes a model
                without a test, or `budget` is given although these settings have no budget.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        if self.objective == "mmom" and given.keys() & {"theta", "null"}:
            raise OptionError("objective mmom makes a corrected model without a test; omit theta and null")
        if "budget" in given and self.budget is None:
            raise OptionError(
                "these settings do not adjust the penalty's weight to reach a budget; set margin_weight "
                "(--margin-weight) instead"
            )
        return replace(self, **given)

    def as_json(self) -> dict[str, Any]:
        """Return a dictionary that maps each field's name to a JSON value; tuples become lists."""
        constants: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return constants
