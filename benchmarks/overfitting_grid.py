"""The cells of the paper's Tables 2 to 5 and of Figures 1 and 2, which `benchmarks.overfitting` runs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.training.imbalance import PROFILES
from benchmarks.training.recipe import Recipe

NETWORK = "resnet32"
EPOCHS, OVERTRAINED = 200, 1000
PER_CLASS = {"cifar10": 50, "cifar100": 5}
"""Images of each class in D (section 4.2)."""

MMOM_WEIGHT = 1e-5
"""λ where a table does not vary it; the paper names none, and finds no difference from 1e-7 to 1e-4."""
MMOM_WEIGHTS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        data, profile, objective, epochs, seed: of the network; see `Recipe`.
        mitigation: `none`, `MMAC` (Eq. 4) or `MMOM` (Eq. 5).
        weight: λ of MMOM, else None.
        architecture: of the network.
    """

    data: str
    profile: str
    objective: str = "CE"
    epochs: int = EPOCHS
    mitigation: str = "none"
    weight: float | None = None
    seed: int = 0
    architecture: str = NETWORK

    @property
    def name(self) -> str:
        """Name of its JSON."""
        weight = "" if self.weight is None else f"-{self.weight:g}"
        prefix = "" if self.architecture == NETWORK else f"{self.architecture}-"
        training = f"{prefix}{self.data}-{self.profile}-{self.objective}-{self.epochs}epochs-seed{self.seed}"
        return f"{training}-{self.mitigation}{weight}"

    @property
    def recipe(self) -> Recipe:
        """How its network is trained."""
        return Recipe(
            data=self.data,
            network=self.architecture,
            attack="none",
            epochs=self.epochs,
            seed=self.seed,
            profile=self.profile,
            objective=self.objective,
        )


def cells(seed: int = 0) -> list[Cell]:
    """The whole grid, each cell once; those of one network follow each other."""
    grid = dict.fromkeys(
        [*_tables_2_and_4(seed), *_lambdas(seed), *_balanced(seed), *_pair("cifar10", "LT-100", OVERTRAINED, seed)]
    )
    networks = dict.fromkeys(cell.recipe for cell in grid)
    return [cell for recipe in networks for cell in grid if cell.recipe == recipe]


def small_cells(architecture: str, epochs: int, seed: int = 0) -> list[Cell]:
    """The paper's claim on MMOM at a size that a CPU trains: CIFAR-10 with each profile, before and after."""
    return [cell for profile in PROFILES for cell in _pair("cifar10", profile, epochs, seed, architecture)]


def _tables_2_and_4(seed: int) -> Iterator[Cell]:
    """Figures 1 and 2 (a), (b) take theirs from here too."""
    for data in PER_CLASS:
        for profile in (name for name in PROFILES if name != "balanced"):
            yield from _pair(data, profile, EPOCHS, seed)
            yield Cell(data, profile, mitigation="MMAC", seed=seed)
            yield Cell(data, profile, "mixup", seed=seed)
            yield Cell(data, profile, "GCL", seed=seed)
            yield Cell(data, profile, "GCL", mitigation="MMOM", weight=MMOM_WEIGHT, seed=seed)


def _lambdas(seed: int) -> Iterator[Cell]:
    """Table 3 and Figure 2 (c)."""
    for weight in MMOM_WEIGHTS:
        yield Cell("cifar10", "LT-100", mitigation="MMOM", weight=weight, seed=seed)


def _balanced(seed: int) -> Iterator[Cell]:
    """Table 5."""
    for data in PER_CLASS:
        yield from _pair(data, "balanced", EPOCHS, seed)


def _pair(data: str, profile: str, epochs: int, seed: int, architecture: str = NETWORK) -> Iterator[Cell]:
    plain = Cell(data, profile, epochs=epochs, seed=seed, architecture=architecture)
    yield plain
    yield replace(plain, mitigation="MMOM", weight=MMOM_WEIGHT)
