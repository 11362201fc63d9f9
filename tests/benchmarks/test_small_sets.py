import logging

import numpy as np
import pytest

from benchmarks.clean_shapes import CLASSES, SHAPES, outliers, rounded, untouched
from benchmarks.small_sets import entry


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_gives_logits_of_two_networks_that_mostly_agree(name: str) -> None:
    original, clipped = SHAPES[name](np.random.default_rng(0), 500)
    assert original.shape == clipped.shape == (500, 100 if name == "100 classes" else CLASSES)
    assert np.isfinite([original, clipped]).all()
    assert (original.argmax(axis=1) == clipped.argmax(axis=1)).mean() > 0.7


def test_shapes_are_what_their_names_say() -> None:
    original, clipped = untouched(np.random.default_rng(1), 4000)
    assert (original == clipped).all(axis=1).mean() == pytest.approx(0.8, abs=0.03)
    original, clipped = rounded(np.random.default_rng(2), 100)
    assert not np.mod([original, clipped], 0.5).any()
    changes = np.ptp(np.subtract(*outliers(np.random.default_rng(3), 4000)), axis=1)
    assert (changes > 4 * np.median(changes)).mean() == pytest.approx(0.02, abs=0.01)


def test_an_entry_is_the_mean_share_over_draws_by_null() -> None:
    logging.disable(logging.WARNING)
    try:
        found = entry(SHAPES["90 % of one class"], 50, draws=4)
    finally:
        logging.disable(logging.NOTSET)
    assert 0 <= found["auto"]["mean"] <= found["auto"]["largest"] <= 1
    assert found["auto"]["mean"] < found["gaussian"]["mean"], "ranks only bound the fit"
