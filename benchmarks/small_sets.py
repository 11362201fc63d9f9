"""Measure what share of clean inputs is flagged with small calibration sets, for several simulated effects of clipping.

    python -m benchmarks.small_sets

Draws clean logits for each effect (`benchmarks/clean_shapes.py`), fits the null to n of them as calibration does, and
counts how many of 10,000 others have p <= theta, with the null that calibration chooses and with the fitted Gaussian
alone. Writes `benchmarks/results/small-sets.json`.
"""

import argparse
import logging
import time
from dataclasses import asdict
from statistics import mean, stdev

import numpy as np

from benchmarks.clean_shapes import SHAPES, Shape
from benchmarks.environment import environment
from benchmarks.record import RESULTS, write_json
from mmguard.calibrate.learning.cross_fit import split_folds
from mmguard.pipeline.null_fit import fit_null
from mmguard.settings.presets import DEFAULT
from mmguard.types import Calibration

PATH = RESULTS / "small-sets.json"
SIZES = (50, 100, 200, 500)
UNSEEN = 10_000
DRAWS = 100


def shares(shape: Shape, n: int, draw: int) -> dict[str, float]:
    """Return the share of unseen clean inputs with p <= theta, for the chosen null and for the fitted one."""
    generator = np.random.default_rng((draw, n))
    original, clipped = (logits.astype(np.float32) for logits in shape(generator, n))
    learned = Calibration({}, original, clipped, clipped, rounds=1, converged=True)
    null, _ = fit_null(learned, DEFAULT, split_folds(n, DEFAULT.folds, draw))
    unseen = shape(generator, UNSEEN)
    tests = {"auto": null.test(), "gaussian": null.fitted()}
    return {name: float((test(*unseen).p_values <= null.theta).mean()) for name, test in tests.items()}


def entry(shape: Shape, n: int, draws: int) -> dict[str, dict[str, float]]:
    """Return mean, standard error and maximum over the draws, by null."""
    found = [shares(shape, n, draw) for draw in range(draws)]
    by_null = {name: [each[name] for each in found] for name in found[0]}
    return {
        name: {"mean": mean(values), "standard_error": stdev(values) / draws**0.5, "largest": max(values)}
        for name, values in by_null.items()
    }


def main() -> None:
    """Compute the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS, help="calibration sets per entry; 2 or more")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    start, table = time.perf_counter(), {}
    for name, shape in SHAPES.items():
        table[name] = {str(n): entry(shape, n, arguments.draws) for n in SIZES}
        print(name, *(f"n = {n}: {100 * each['auto']['mean']:.2f} %" for n, each in table[name].items()), sep="   ")
    record = {"theta": DEFAULT.theta, "draws": arguments.draws, "unseen": UNSEEN, "seeds": "(draw, n)"}
    seconds = {"seconds": time.perf_counter() - start, "settings": asdict(DEFAULT)}
    write_json(PATH, record | {"shares": table} | seconds | environment())


if __name__ == "__main__":
    main()
