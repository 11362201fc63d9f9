"""What share of clean inputs is flagged where the clean set is small, by the shape of what clipping does.

    python -m benchmarks.small_sets

Draws clean logits of each shape (`benchmarks/clean_shapes.py`), fits the null to n of them as calibration does, and
counts how many of 10,000 others have p <= theta: by the null that calibration chooses, and by the fitted Gaussian
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
from mmguard.calibrate.learning.cross_fit import parts_of
from mmguard.pipeline.null_fit import fit_null
from mmguard.settings.presets import DEFAULT
from mmguard.types import Calibration

PATH = RESULTS / "small-sets.json"
SIZES = (50, 100, 200, 500)
UNSEEN = 10_000
DRAWS = 100


def shares(shape: Shape, n: int, draw: int) -> dict[str, float]:
    """Share of unseen clean inputs with p <= theta, by the null that is chosen and by the fitted one."""
    generator = np.random.default_rng((draw, n))
    original, clipped = (logits.astype(np.float32) for logits in shape(generator, n))
    learned = Calibration({}, original, clipped, clipped, rounds=1, converged=True)
    null, _ = fit_null(learned, DEFAULT, parts_of(n, DEFAULT.folds, draw))
    unseen = shape(generator, UNSEEN)
    tests = {"auto": null.test(), "gaussian": null.fitted()}
    return {name: float((test(*unseen).p_values <= null.theta).mean()) for name, test in tests.items()}


def entry(shape: Shape, n: int, draws: int) -> dict[str, dict[str, float]]:
    """Mean and standard error over the draws, by null."""
    found = [shares(shape, n, draw) for draw in range(draws)]
    by_null = {name: [each[name] for each in found] for name in found[0]}
    return {
        name: {"mean": mean(values), "standard_error": stdev(values) / draws**0.5, "largest": max(values)}
        for name, values in by_null.items()
    }


def main() -> None:
    """Fill the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS, help="clean sets an entry; 2 or more")
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
