"""The excess of activations beyond the ranges of clean inputs, against the standard library's medians."""

from statistics import fmean, median

import numpy as np
import pytest

from mmguard.detection.distances import SiteGaussian
from mmguard.detection.ranges import ClassRanges
from mmguard.types import FloatArray, IntArray

CLASSES = 4


def activations(n: int, channels: int = 12, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Features (n, C) of a ReLU, of which a quarter are silent for each class, and decisions (n,)."""
    rng = np.random.default_rng(seed)
    decisions = rng.permutation(np.arange(n) % CLASSES)
    used = np.arange(channels) % CLASSES != decisions[:, None]
    features: FloatArray = np.maximum(rng.normal(1, 1, (n, channels)), 0) * used
    return features, decisions


def by_hand(clean: FloatArray, clean_decisions: IntArray, features: FloatArray, decisions: IntArray) -> FloatArray:
    """Σ max(0, |a − median| − 3 MAD) / max(|median| + 3 MAD, 0.01 mean |a|) over the channels, number by number."""
    least = 0.01 * fmean(np.abs(clean).ravel().tolist())
    excesses = []
    for row, label in zip(features.tolist(), decisions.tolist(), strict=True):
        own = clean[clean_decisions == label]
        group = own if len(own) >= 10 else clean
        total = 0.0
        for value, channel in zip(row, group.T.tolist(), strict=True):
            middle = median(channel)
            width = 3 * median(abs(each - middle) for each in channel)
            total += max(0.0, abs(value - middle) - width) / max(abs(middle) + width, least)
        excesses.append(total)
    return np.array(excesses)


@pytest.mark.parametrize("n", [48, 60], ids=["even", "odd"])
def test_the_excess_is_that_of_the_formula(n: int) -> None:
    """With an even and with an odd number of inputs of each class, and with channels that are below 0 for most."""
    clean, decisions = activations(n)
    unseen, unseen_decisions = activations(40, seed=1)
    clean[:, :3] -= 1.5
    unseen[:, :3] -= 1.5
    fitted = ClassRanges.fit(clean, decisions, CLASSES)
    expected = by_hand(clean, decisions, unseen, unseen_decisions)
    assert (expected > 0).mean() > 0.5
    # float64 in both
    np.testing.assert_allclose(fitted(unseen, unseen_decisions), expected, rtol=1e-12)
    assert fitted(unseen[:0], unseen_decisions[:0]).shape == (0,)


def test_a_class_with_few_clean_inputs_has_the_ranges_of_all() -> None:
    clean, decisions = activations(60)
    decisions[decisions == 3] = 1
    decisions[:9] = 3
    assert np.bincount(decisions).tolist()[3] == 9
    fitted = ClassRanges.fit(clean, decisions, CLASSES + 1)
    assert fitted.groups.tolist() == [1, 2, 3, 0, 0], "the last class has no clean input"
    unseen, _ = activations(40, seed=1)
    labels = np.arange(40) % (CLASSES + 1)
    np.testing.assert_allclose(fitted(unseen, labels), by_hand(clean, decisions, unseen, labels), rtol=1e-12)
    np.testing.assert_array_equal(fitted(unseen, np.full(40, 3)), fitted(unseen, np.full(40, 4)))


def test_activations_within_the_ranges_have_no_excess() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(-20, 20, (63, 6)).astype(np.float64)  # whole numbers, so that the ends of ranges are exact
    decisions = np.arange(63) % 3
    fitted = ClassRanges.fit(clean, decisions, 3)
    own = [clean[decisions == label] for label in range(3)]
    medians = np.stack([np.median(each, axis=0) for each in own])
    widths = 3 * np.stack([np.median(np.abs(each - np.median(each, axis=0)), axis=0) for each in own])
    for share in (-1, -0.5, 0, 1):
        np.testing.assert_array_equal(fitted(medians + share * widths, np.arange(3)), 0)
    for share in (-1, 1):
        beyond = medians + share * widths
        beyond[:, 2] += share * 2
        expected = 2 / (np.abs(medians) + widths)[:, 2]
        np.testing.assert_allclose(fitted(beyond, np.arange(3)), expected, rtol=1e-12)


def test_a_silent_channel_that_fires_stands_out_though_other_classes_use_it() -> None:
    """The distance with one covariance for all classes hardly sees it, because the covariance is that of these classes.

    The median of the clean inputs of its class is the value at which the channel fires for inputs of other classes.
    """
    clean, decisions = activations(400, channels=40)
    unseen, unseen_decisions = activations(400, channels=40, seed=1)
    silent = CLASSES  # channel 4 is silent for class 0
    assert not clean[decisions == 0, silent].any()
    fired = unseen[unseen_decisions == 0]
    without, zeros = fired.copy(), np.zeros(len(fired), np.int64)
    fired[:, silent] = np.median(clean[decisions != 0, silent])
    ranges = ClassRanges.fit(clean, decisions, CLASSES)
    gaussian = SiteGaussian.fit(clean, decisions, CLASSES)
    assert ranges(fired, zeros).min() > 3 * ranges(unseen, unseen_decisions).max()
    limit = np.quantile(gaussian(unseen, unseen_decisions), 0.95)
    assert (gaussian(fired, zeros) > limit).mean() < 0.2
    assert np.median(gaussian(fired, zeros)) < 1.2 * np.median(gaussian(without, zeros))


def test_some_clean_inputs_that_are_decided_wrongly_do_not_widen_the_ranges() -> None:
    """A tenth of the inputs on which the network decides for class 0 are like those of class 1."""
    clean, decisions = activations(400)
    wrong = np.flatnonzero(decisions == 1)[:11]
    decided = decisions.copy()
    decided[wrong] = 0
    ranges = ClassRanges.fit(clean, decided, CLASSES)
    silent = np.arange(clean.shape[1]) % CLASSES == 0
    assert clean[decided == 0][:, silent].any()
    assert not ranges.medians[ranges.groups[0], silent].any()
    assert not ranges.widths[ranges.groups[0], silent].any()
    right = decided == 0
    right[wrong] = False
    assert ranges(clean[wrong], decided[wrong]).min() > ranges(clean[right], decided[right]).max()


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
def test_the_scale_of_a_site_does_not_change_the_excess(factor: float) -> None:
    clean, decisions = activations(60)
    unseen, unseen_decisions = activations(40, seed=1)
    ours = ClassRanges.fit(clean, decisions, CLASSES)(unseen, unseen_decisions)
    theirs = ClassRanges.fit(factor * clean, decisions, CLASSES)(factor * unseen, unseen_decisions)
    np.testing.assert_allclose(theirs, ours, rtol=1e-12)


@pytest.mark.parametrize("level", [0, 1e-25, 1e-45])
def test_a_site_that_is_wholly_silent_stays_finite_in_single_precision(level: float) -> None:
    """Also at a level that is no exact 0; the last is the smallest number of single precision."""
    decisions = np.arange(60) % CLASSES
    clean = np.full((60, 5), level, np.float32)
    fitted = ClassRanges.fit(clean, decisions, CLASSES)
    for array in (fitted.medians, fitted.widths, fitted.sizes, 1 / fitted.sizes):
        assert np.isfinite(array.astype(np.float32)).all()
    np.testing.assert_array_equal(fitted(clean, decisions), 0)
    # the size of each range is 0.01, a hundredth of the mean 1 that takes the place of 0
    np.testing.assert_allclose(fitted(np.ones((1, 5)), decisions[:1]), [5 / 0.01], rtol=1e-12)


def test_the_least_size_of_a_range_is_a_share_of_the_mean_of_its_site() -> None:
    decisions = np.arange(60) % 3
    clean = np.tile([0.0, 4.0, -8.0], (60, 1))  # constant channels, with a mean absolute value of 4
    fitted = ClassRanges.fit(clean, decisions, 3)
    moved = clean[:3] + np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    np.testing.assert_allclose(fitted(moved, decisions[:3]), [1 / 0.04, 1 / 4, 1 / 8], rtol=1e-12)
