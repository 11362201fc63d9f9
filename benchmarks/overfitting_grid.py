"""Cells of the paper's Tables 2 to 5 and Figures 1 and 2, which `benchmarks.overfitting` runs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.training.imbalance import PROFILES
from benchmarks.training.recipe import Recipe

NETWORK = "resnet32"
EPOCHS, OVERTRAINED = 200, 1000
PER_CLASS = {"cifar10": 50, "cifar100": 5}
"""Images of each class in the calibration set (section 4.2)."""

MMOM_WEIGHT = 1e-5
"""λ in tables that do not vary it. The paper does not give it, and finds no difference from 1e-7 to 1e-4."""
MMOM_WEIGHTS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True)
class Cell:
    """One cell: a network, described by its recipe (see `Recipe`), and a mitigation.

    Attributes:
        data: data set of the recipe.
        profile: class imbalance of the recipe.
        objective: training objective of the recipe.
        epochs: epochs of the recipe.
        mitigation: `none`, `MMAC` (Eq. 4) or `MMOM` (Eq. 5).
        weight: λ of MMOM; None for other mitigations.
        seed: seed of the recipe.
        architecture: architecture of the network.
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
        """Name of the cell's JSON."""
        weight = "" if self.weight is None else f"-{self.weight:g}"
        prefix = "" if self.architecture == NETWORK else f"{self.architecture}-"
        training = f"{prefix}{self.data}-{self.profile}-{self.objective}-{self.epochs}epochs-seed{self.seed}"
        return f"{training}-{self.mitigation}{weight}"

    @property
    def recipe(self) -> Recipe:
        """Recipe of the cell's network."""
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
    """Return the whole grid, each cell once, with the cells of one network next to each other."""
    grid = dict.fromkeys(
        [*_tables_2_and_4(seed), *_lambdas(seed), *_balanced(seed), *_pair("cifar10", "LT-100", OVERTRAINED, seed)]
    )
    networks = dict.fromkeys(cell.recipe for cell in grid)
    return [cell for recipe in networks for cell in grid if cell.recipe == recipe]


def small_cells(architecture: str, epochs: int, seed: int = 0) -> list[Cell]:
    """Return cells to check MMOM on networks that a CPU can train: CIFAR-10 with each profile, before and after."""
    return [cell for profile in PROFILES for cell in _pair("cifar10", profile, epochs, seed, architecture)]


def _tables_2_and_4(seed: int) -> Iterator[Cell]:
    """Yield the cells of Tables 2 and 4, which Figures 1, 2 (a) and 2 (b) use too."""
    for data in PER_CLASS:
        for profile in (name for name in PROFILES if name != "balanced"):
            yield from _pair(data, profile, EPOCHS, seed)
            yield Cell(data, profile, mitigation="MMAC", seed=seed)
            yield Cell(data, profile, "mixup", seed=seed)
            yield Cell(data, profile, "GCL", seed=seed)
            yield Cell(data, profile, "GCL", mitigation="MMOM", weight=MMOM_WEIGHT, seed=seed)


def _lambdas(seed: int) -> Iterator[Cell]:
    """Yield the cells of Table 3 and Figure 2 (c)."""
    for weight in MMOM_WEIGHTS:
        yield Cell("cifar10", "LT-100", mitigation="MMOM", weight=weight, seed=seed)


def _balanced(seed: int) -> Iterator[Cell]:
    """Yield the cells of Table 5."""
    for data in PER_CLASS:
        yield from _pair(data, "balanced", EPOCHS, seed)


def _pair(data: str, profile: str, epochs: int, seed: int, architecture: str = NETWORK) -> Iterator[Cell]:
    plain = Cell(data, profile, epochs=epochs, seed=seed, architecture=architecture)
    yield plain
    yield replace(plain, mitigation="MMOM", weight=MMOM_WEIGHT)
