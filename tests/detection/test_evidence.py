"""What the test reads of activations: a distance for each site and one excess, in sample and held out."""

import numpy as np

from mmguard.detection.evidence import ActivationEvidence, held_out_evidence
from mmguard.types import EvidenceSite, FloatArray, IntArray
from tests.detection.test_distances import CLASSES, by_inverse, correlated
from tests.detection.test_ranges import by_hand

FIRST, LAST, ROOT = EvidenceSite("a", 1, "mean"), EvidenceSite("b", 1, "mean"), EvidenceSite("b", 1, "root")
SITES = (FIRST, LAST, ROOT)


def features_of(n: int, channels: int = 6, seed: int = 0) -> tuple[list[FloatArray], IntArray]:
    """Features of three sites, the last with the roots of the one before, and decisions."""
    first, decisions = correlated(n, channels, seed)
    last = first[:, : channels // 2] ** 2
    return [first, last, np.sqrt(last)], decisions


def expected_of(
    clean: list[FloatArray], clean_decisions: IntArray, features: list[FloatArray], decisions: IntArray
) -> FloatArray:
    """The distances by the inverse of the covariance, and the excesses of the two sites of means by hand."""
    given = clean_decisions, decisions
    distances = [by_inverse(own, given[0], each, given[1]) for own, each in zip(clean, features, strict=True)]
    excesses = [by_hand(own, given[0], each, given[1]) for own, each in zip(clean[:2], features[:2], strict=True)]
    return np.stack([*distances, sum(excesses, np.zeros(len(decisions)))], axis=1)


def test_the_distances_come_first_and_the_sum_of_the_excesses_last() -> None:
    """The roots of a site's means are the same activations once more, so their excess is not counted."""
    clean, decisions = features_of(60)
    evidence = ActivationEvidence.fit(SITES, clean, decisions, CLASSES)
    assert evidence.sites == SITES
    assert (len(evidence.gaussians), len(evidence.ranges)) == (3, 2)
    for ranges in evidence.ranges:
        np.testing.assert_array_equal(ranges.groups, evidence.gaussians[0].groups)
    unseen, unseen_decisions = features_of(40, seed=2)
    read = evidence(unseen, unseen_decisions)
    assert read.shape == (40, 4)
    assert read[:, -1].max() > 1
    # float64 in both; the condition number of the shrunk matrices is below 1000
    np.testing.assert_allclose(read, expected_of(clean, decisions, unseen, unseen_decisions), rtol=1e-9, atol=1e-9)


def test_held_out_evidence_is_fitted_to_the_other_parts() -> None:
    clean, decisions = features_of(90, channels=40)
    parts = np.array_split(np.random.default_rng(0).permutation(90), 3)
    held_out = held_out_evidence(SITES, clean, decisions, CLASSES, parts)
    for part in parts:
        others = np.setdiff1d(np.arange(90), part)
        fitted, left_out = ([each[rows] for each in clean] for rows in (others, part))
        expected = expected_of(fitted, decisions[others], left_out, decisions[part])
        np.testing.assert_allclose(held_out[part], expected, rtol=1e-9, atol=1e-9)
    in_sample = ActivationEvidence.fit(SITES, clean, decisions, CLASSES)(clean, decisions)
    nearer = "evidence is too near the inputs that it was fitted to"
    assert (held_out[:, :-1].mean(axis=0) > 1.2 * in_sample[:, :-1].mean(axis=0)).all(), nearer
    assert (held_out[:, -1] != in_sample[:, -1]).mean() > 0.9
    assert held_out[:, -1].mean() > in_sample[:, -1].mean(), nearer


def test_without_parts_the_evidence_is_fitted_to_all_inputs() -> None:
    clean, decisions = features_of(60)
    read = ActivationEvidence.fit(SITES, clean, decisions, CLASSES)(clean, decisions)
    np.testing.assert_array_equal(held_out_evidence(SITES, clean, decisions, CLASSES, ()), read)
    np.testing.assert_allclose(read, expected_of(clean, decisions, clean, decisions), rtol=1e-9, atol=1e-9)
