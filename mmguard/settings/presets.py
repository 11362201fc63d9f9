"""The presets: settings that fix every constant of a calibration."""

from dataclasses import replace

from mmguard.errors import OptionError
from mmguard.settings.settings import Objective, Settings

DEFAULT = Settings()
"""Ours. No margin is searched while bounds are learned: those that hug what clean inputs need leave a trigger little
room, and the null is of inputs that shaped nothing."""


MARGINS = Settings(
    penalty="margins",
    rounds=300,
    tolerance=1e-4,
    learning_rate=0.02,
    slow_share=0.0,
    steps=1,
    change=None,
    folds=1,
    statistics=("margin_gap",),
    null="gaussian",
    null_power=1.0,
)
"""What `paper` and `reference` have in common: the alternation of Eq. 4, and the paper's test."""


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
"""As section 3.1 of the paper has it: Eq. 4 with a constant λ, gradient ascent from random starts on the clipped
network, a Gaussian null, and every disagreement flags. λ, the number of maximisers, the optimiser and all steps are
ours: it names none."""


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
"""As the code has it that the paper's authors released. Its λ, 0.002, is on the sum of 500 margins, not on the mean."""


PRESETS = {"default": DEFAULT, "paper": PAPER, "reference": REFERENCE}


MMOM_WEIGHT = 1e-5
"""λ of MMOM, constant: amid the range, 1e-7 to 1e-4, in which the paper's Table 3 finds it to matter little."""
MMOM_ROUNDS = 60


def find_preset(name: str, objective: Objective = "mmac") -> Settings:
    """The settings of a preset, for another objective if so asked.

    Raises:
        OptionError: no preset or objective of that name.
    """
    if name not in PRESETS:
        raise OptionError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    settings = replace(PRESETS[name], objective=objective)
    if objective == "mmom":
        if name == "default":
            settings = replace(MARGINS, objective=objective, rounds=MMOM_ROUNDS)
        return replace(settings, margin_weight=MMOM_WEIGHT, margin_weight_factor=1.0, only_correct=False)
    if objective == "mmbm":
        settings = replace(settings, penalty="norm")
        if name == "reference":
            # The authors' code has these for MM-BM; its steps of 0.1 are here in units of where bounds start.
            settings = replace(settings, rounds=50, bounds_start=8.0, learning_rate=0.1 / 8, margin_weight=0.5)
    return settings
