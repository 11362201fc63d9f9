"""The data sets: diamonds, a real table, and control charts, a synthetic time series.

Inputs are float32 in the units of the data set; the networks standardise them. Labels are int64 from 0 to K - 1.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Labels
from benchmarks.suspect import ZOO

FOLDER = ZOO / "arrays"

Inputs = NDArray[np.float32]

CUTS = ("Fair", "Good", "Very Good", "Premium", "Ideal")
COLOURS, CLARITIES = tuple("JIHGFED"), ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF")
COLUMNS = ("carat", "color", "clarity", "depth", "table", "price", "x", "y", "z")
HELD_OUT = 8000

CHARTS = ("normal", "cyclic", "increasing", "decreasing", "upward shift", "downward shift")
LENGTH, LEVEL, NOISE = 60, 30.0, 2.0
CHARTS_PER_CLASS = {"train": 2000, "test": 1000}


@dataclass(frozen=True)
class Arrays:
    """Inputs (N, ...) float32 and labels (N,) int64."""

    x: Inputs
    y: Labels


def diamonds(part: str, folder: Path | None = None) -> Arrays:
    """Return the diamonds data set of ggplot2 (Wickham 2016), with the cut as the label: (N, 9) in 5 classes.

    The held-out rows lie in the zoo, so that measuring needs no download. Training needs `diamonds.csv`, which the
    wheel of plotnine contains: `pip download --no-deps plotnine`, then `unzip -j plotnine-*.whl '*/diamonds.csv'`.

    Args:
        part: `train` or `test`.
        folder: folder of `diamonds.csv`, for `train`.

    Returns:
        The features `COLUMNS`; colour and clarity are numbered from the worst to the best.

    Raises:
        FileNotFoundError: the folder does not have the file.
    """
    if part == "test":
        with np.load(FOLDER / "diamonds.npz", allow_pickle=False) as arrays:
            return Arrays(arrays["x"], arrays["y"].astype(np.int64))
    return _diamonds_of((folder or Path()) / "diamonds.csv")[0]


def hold_out_diamonds(folder: Path) -> None:
    """Write the held-out rows of `diamonds.csv` to the zoo."""
    held = _diamonds_of(folder / "diamonds.csv")[1]
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "diamonds.npz", x=held.x, y=held.y.astype(np.int8))


def _diamonds_of(path: Path) -> tuple[Arrays, Arrays]:
    """Split all rows at random into those to train on and those held out."""
    if not path.is_file():
        raise FileNotFoundError(f"expected {path}; take it from the wheel of plotnine (benchmarks/arrays/data.py)")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    codes = {"color": COLOURS, "clarity": CLARITIES}
    features = [
        [codes[name].index(row[name]) if name in codes else float(row[name]) for name in COLUMNS] for row in rows
    ]
    x, y = np.array(features, dtype=np.float32), np.array([CUTS.index(row["cut"]) for row in rows], dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    held, rest = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    return Arrays(x[rest], y[rest]), Arrays(x[held], y[held])


def control_charts(part: str, folder: Path | None = None) -> Arrays:
    """Draw synthetic control charts by the equations of Alcock and Manolopoulos 1999: (N, 1, 60) in 6 classes.

    Each is 30 + 2 r(t) with r(t) uniform in [-3, 3], plus by class: nothing; a sine of amplitude and period in
    [10, 15]; a trend of 0.2 to 0.5 per step, up or down; or a shift of 7.5 to 20 from a step in the middle third on, up
    or down.

    Args:
        part: `train` or `test`, which are drawn from different seeds.
        folder: not used.
    """
    generator = np.random.default_rng([1999, part == "test"])
    y = np.repeat(np.arange(len(CHARTS)), CHARTS_PER_CLASS[part])
    time, count = np.arange(LENGTH), (len(y), 1)
    amplitude, period = generator.uniform(10, 15, (2, *count))
    slope, shift = generator.uniform(0.2, 0.5, count), generator.uniform(7.5, 20, count)
    late = time >= generator.uniform(LENGTH / 3, 2 * LENGTH / 3, count)
    changes = np.stack(
        [
            np.zeros((len(y), LENGTH)),
            amplitude * np.sin(2 * np.pi * time / period),
            slope * time,
            -slope * time,
            shift * late,
            -shift * late,
        ]
    )
    noise = NOISE * generator.uniform(-3, 3, (len(y), LENGTH))
    x = LEVEL + noise + changes[y, np.arange(len(y))]
    return Arrays(x[:, None].astype(np.float32), y)


DATA: dict[str, Callable[[str, Path | None], Arrays]] = {"diamonds": diamonds, "control_charts": control_charts}
"""By name. Each takes `train` or `test`, and a folder with files that the repository does not have."""
