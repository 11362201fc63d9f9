"""The presets. Each preset has a name, and a value for every constant of a calibration."""

from dataclasses import replace
from types import MappingProxyType

from mmguard.errors import OptionError
from mmguard.settings.settings import Null, Objective, Settings

DEFAULT = Settings()
"""Our own method. It learns the bounds without a margin search: bounds that are as tight as clean inputs allow already
leave a trigger little room. The null is fitted to inputs that the bounds were not learned from."""

MARGINS = Settings(
    penalty="margins",
    rounds=300,
    tolerance=1e-4,
    learning_rate=0.02,
    slow_share=0.0,
    steps=1,
    budget=None,
    folds=1,
    statistics=("margin_gap",),
    null="gaussian",
    null_power=1.0,
)
"""The settings that `paper` and `reference` share: the alternating optimisation of Eq. 4, and the paper's test."""

PAPER = replace(
    MARGINS,
    maximisers=50,
    shared_share=0.0,
    normalised=False,
    noise=1.0,
    first_steps=100,
    sample_step=0.01,
    hinge=False,
    disagreement_theta=1.0,
)
"""The method of section 3.1 of the paper: Eq. 4 with a constant λ, gradient ascent on the clipped network from random
starting points, and a Gaussian null. Every input on which the networks disagree is flagged. We chose λ, the number of
maximisers, the optimiser and the step sizes, which the paper does not specify."""

REFERENCE = replace(
    MARGINS,
    only_correct=True,
    tolerance=0.0,
    bounds_start=1.0,
    learning_rate=0.1,
    batch=200,
    margin_weight=1.0,
    margin_weight_factor=1.2,
    margin_weight_from=30,
    margin_weight_every=10,
    maximisers=50,
    shared_share=0.0,
    search_original=True,
    normalised=False,
    first_steps=300,
    warm_steps=0,
    renew_every=100,
    noise=1.0,
    sample_step=0.01,
    hinge=False,
    disagreement_theta=0.0,
)
"""The method as implemented in the code that the paper's authors released. Their code multiplies the sum of 500 margins
by λ = 0.002. mmguard multiplies the mean of the margins by λ, so the equivalent initial value is λ = 1."""

PRESETS = MappingProxyType({"default": DEFAULT, "paper": PAPER, "reference": REFERENCE})

MMOM_WEIGHT = 1e-5
"""The constant λ of MMOM. Table 3 of the paper shows little difference between values of λ from 1e-7 to 1e-4."""
MMOM_ROUNDS = 60


def preset(
    name: str = "default",
    objective: Objective = "mmac",
    *,
    theta: float | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    margin_weight: float | None = None,
    null: Null | None = None,
) -> Settings:
    """Return the settings of a preset, with the given values replaced.

    Args:
        name: `default` (our own method), `paper` (the method as described in the paper) or `reference` (the method as
            implemented in the authors' code).
        objective: the objective that learning minimises. `mmac` makes a guard. `mmom` needs labels, and makes a
            corrected model without a test, for a model that is overfitted but not backdoored. `mmbm`, a baseline, makes
            a guard with small bounds.
        theta: significance level of the test. None keeps the preset's value, for this and all following arguments.
        rounds: maximum number of rounds.
        budget: target for the change that clipping causes in the logits on the calibration set: the mean squared change
            of the logits, as a share of their variance.
        margin_weight: initial weight λ of the penalty.
        null: how p-values are computed: `auto`, `gaussian`, `empirical` or `bounded`.

    Returns:
        The settings, ready for `calibrate_model`.

    Raises:
        OptionError: There is no preset with this name, a value is out of range, or a value has no effect in the
            preset.

    Example:
        >>> preset("default", theta=0.01).theta
        0.01
    """
    if name not in PRESETS:
        raise OptionError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    settings = _with_objective(name, objective)
    return settings.adjusted(theta=theta, rounds=rounds, budget=budget, margin_weight=margin_weight, null=null)


def base_preset(settings: Settings) -> str:
    """Return the name of the preset that the settings are based on.

    Args:
        settings: any settings.

    Returns:
        The name; `custom` if every preset differs from the settings in a constant that `preset` has no argument for.
    """
    adjustable = {name: getattr(settings, name) for name in ("theta", "rounds", "budget", "margin_weight", "null")}
    return next(
        (name for name in PRESETS if replace(_with_objective(name, settings.objective), **adjustable) == settings),
        "custom",
    )


def _with_objective(name: str, objective: Objective) -> Settings:
    """Return the settings of a preset for an objective, before any other values are replaced."""
    settings = replace(PRESETS[name], objective=objective)
    if objective == "mmom":
        if name == "default":
            settings = replace(MARGINS, objective=objective, rounds=MMOM_ROUNDS)
        return replace(settings, margin_weight=MMOM_WEIGHT, margin_weight_factor=1.0, only_correct=False)
    if objective == "mmbm":
        settings = replace(settings, penalty="norm")
        if name == "reference":
            # The authors' code uses these values for MM-BM. Its learning rate is not relative to the initial bound.
            settings = replace(settings, rounds=50, bounds_start=8.0, learning_rate=0.1 / 8, margin_weight=0.5)
    return settings
