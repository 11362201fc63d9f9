"""Every constant of calibration, named, and the presets that fix them."""

from dataclasses import dataclass

from mmguard.errors import OptionError


@dataclass(frozen=True)
class Settings:
    """Constants of one calibration.

    Attributes:
        rounds: largest number of alternations of margin search and descent.
        tolerance: a change of the objective below this, from one round to the next, ends the rounds.
        learning_rate: Adam's, on bounds measured in units of each channel's range over D.
        batch: clean inputs a descent step. The descent step takes as many maximisers.
        margin_weight: λ of Eq. 4 at the start, on the mean margin.
        margin_weight_factor: λ is multiplied by this after a round that kept the agreement, else divided.
        agreement: share of D on which both networks must decide the same for λ to rise.
        change: largest mean squared change of the logits on D, as a share of their variance, for λ to rise.
        maximisers: J of Eq. 4, a class: half of them searched each by itself, half by one shared perturbation.
        search_budget: largest number of maximisers over all classes; a class keeps at least two.
        first_steps, warm_steps: ascent steps of the first search, and of every later one, which starts warm.
        sample_step: step of a maximiser that is searched by itself, as a share of the input box.
        noise: share of uniform noise, the rest a clean input, where such a maximiser starts.
        shared_step, shared_radius: step and largest size of the shared perturbation, as shares of the input box.
        hinge: penalise positive margins only. Unhinged, the penalty drives margins down that are negative already.
        null_power: exponent of the null's power transform; 1 is a plain Gaussian, None the most likely exponent.
        theta: level of the confidence test.
        disagreement_theta: level that a disagreement needs besides (see `mmguard.stats.MmdfTest`).

    Raises:
        OptionError: no round, or a theta outside (0, 1].
    """

    rounds: int = 60
    tolerance: float = 1e-4
    learning_rate: float = 0.02
    batch: int = 100
    margin_weight: float = 0.1
    margin_weight_factor: float = 1.2
    agreement: float = 0.95
    change: float = 0.03
    maximisers: int = 20
    search_budget: int = 1000
    first_steps: int = 30
    warm_steps: int = 5
    sample_step: float = 0.02
    noise: float = 0.3
    shared_step: float = 2 / 255
    shared_radius: float = 6 / 255
    hinge: bool = True
    null_power: float | None = None
    theta: float = 0.005
    disagreement_theta: float = 0.01

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise OptionError(f"rounds must be at least 1, got {self.rounds}")
        if not 0 < self.theta <= 1:
            raise OptionError(f"theta must be above 0 and at most 1, got {self.theta}")


PRESETS = {"default": Settings()}


def find_preset(name: str) -> Settings:
    """The settings of a preset.

    Raises:
        OptionError: no preset of that name.
    """
    if name not in PRESETS:
        raise OptionError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
