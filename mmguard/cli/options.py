"""Options of `mmguard calibrate` for the bounds and the test, and a function that reads the file of class names."""

from dataclasses import asdict, dataclass
from pathlib import Path

from cyclopts import Parameter

from mmguard.errors import OptionError
from mmguard.settings import Null, Objective, Settings, preset


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Options for the bounds and the test.

    Attributes:
        preset: Preset to start from: default; paper (the settings described in the paper); or reference (the settings
            used in the code of the paper's authors).
        objective: Objective that the bounds minimise. mmac makes a guard. mmom makes a corrected model without a test,
            for a model that is overfitted but not backdoored; it needs labels. mmbm, a baseline, makes a guard with
            small bounds.
        theta: Significance level of the test, which is the expected false-positive rate. Cannot be used with mmom.
        rounds: Maximum number of rounds. The default preset then repeats the rounds five times, each time leaving
            out a different fifth of the calibration set.
        budget: Target for the cost of clipping: the mean squared change of the logits on the calibration set, as a
            share of the variance of the logits. The default preset uses 0.03.
        margin_weight: Initial weight λ of the penalty in the objective.
        null: How p-values are computed. gaussian uses a curve fitted to the scores of the clean inputs. empirical uses
            the rank of an input's score among the clean scores; this assumes nothing about the distribution of the
            scores, but needs at least 1/theta - 1 clean inputs. bounded uses the curve, but no p-value is below a limit
            that depends on the rank; above the highest clean score, the limit falls slowly. auto selects bounded if
            there are fewer than 2/theta clean inputs. With more clean inputs, auto selects empirical if more clean
            inputs have p <= theta on the curve than chance explains, and gaussian otherwise.
    """

    preset: str = "default"
    objective: Objective = "mmac"
    theta: float | None = None
    rounds: int | None = None
    budget: float | None = None
    margin_weight: float | None = None
    null: Null | None = None

    def settings(self) -> Settings:
        """Return the settings that these options select.

        Raises:
            OptionError: a value is out of range, or an option has no effect in the preset.
        """
        options = asdict(self)
        return preset(options.pop("preset"), options.pop("objective"), **options)


def read_class_names(path: Path | None) -> list[str] | None:
    """Read class names from a text file, one per line.

    Args:
        path: path of the file; None if the user passed no file.

    Returns:
        The names, without blank lines; None if `path` is None.

    Raises:
        OptionError: the file cannot be read.
    """
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--classes {path} cannot be read: {error}") from error
