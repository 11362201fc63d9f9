"""Distances of activations, against the inverse of the shrunk correlation matrix."""

import numpy as np
import pytest

from mmguard.detection.distances import LEAST_VARIATION, MAX_DIRECTIONS, OWN_VARIANCE, SHRINKAGE, SiteGaussian
from mmguard.detection.groups import MIN_OF_CLASS
from mmguard.types import FloatArray, IntArray

CLASSES = 3


def correlated(n: int, channels: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Features (n, C) whose channels are correlated and differ in scale, with a mean and a spread by decision (n,)."""
    rng = np.random.default_rng(seed)
    decisions = rng.permutation(np.arange(n) % CLASSES)
    mixed = np.random.default_rng(1).normal(size=(channels, channels)) * np.geomspace(0.1, 10, channels)
    features: FloatArray = (rng.normal(size=(n, channels)) @ mixed + 3) * (1 + decisions[:, None])
    return features, decisions


def by_inverse(clean: FloatArray, clean_decisions: IntArray, features: FloatArray, decisions: IntArray) -> FloatArray:
    """Squared distances (N,) by the inverse of the correlation matrix, for classes with enough clean inputs."""
    means, scales, correlation = moments(clean, clean_decisions)
    inverse = np.linalg.inv(SHRINKAGE * np.eye(len(correlation)) + (1 - SHRINKAGE) * correlation)
    apart = (features - means[decisions]) / scales[decisions]
    distances: FloatArray = np.einsum("ni,ij,nj->n", apart, inverse, apart)
    return distances


def moments(clean: FloatArray, decisions: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means (K, C) and scales (K, C) of each class, and the correlation (C, C) of what is scaled by them."""
    means = np.stack([clean[decisions == label].mean(axis=0) for label in range(CLASSES)])
    rest = clean - means[decisions]
    own = np.stack([rest[decisions == label].var(axis=0) for label in range(CLASSES)])
    scales = np.sqrt((1 - OWN_VARIANCE) * (rest**2).mean(axis=0) + OWN_VARIANCE * own)
    products = (rest / scales[decisions]).T @ (rest / scales[decisions])
    sizes = np.sqrt(np.diag(products))
    return means, scales, products / np.outer(sizes, sizes)


@pytest.mark.parametrize("channels", [2, 17, 60])
def test_the_distance_is_that_of_the_inverse_of_the_shrunk_covariance(channels: int) -> None:
    """Also with more channels than clean inputs, where the sample covariance itself has no inverse."""
    clean, decisions = correlated(45, channels)
    fitted = SiteGaussian.fit(clean, decisions, CLASSES)
    unseen, unseen_decisions = correlated(30, channels, seed=2)
    expected = by_inverse(clean, decisions, unseen, unseen_decisions)
    # float64 in both; the condition number of the shrunk matrix is below 1000
    np.testing.assert_allclose(fitted(unseen, unseen_decisions), expected, rtol=1e-9)


def test_further_directions_have_the_variance_of_the_identity() -> None:
    """More eigenvectors than are kept: the others are put in place of the correlation matrix by zeros."""
    clean, decisions = correlated(400, MAX_DIRECTIONS + 20)
    fitted = SiteGaussian.fit(clean, decisions, CLASSES)
    assert fitted.directions.shape == (clean.shape[1], MAX_DIRECTIONS)
    means, scales, correlation = moments(clean, decisions)
    eigenvalues, vectors = np.linalg.eigh(correlation)
    eigenvalues[:-MAX_DIRECTIONS] = 0
    inverse = np.linalg.inv((vectors * (SHRINKAGE + (1 - SHRINKAGE) * eigenvalues)) @ vectors.T)
    apart = ((clean - means[decisions]) / scales[decisions])[:20]
    np.testing.assert_allclose(
        fitted(clean[:20], decisions[:20]), np.einsum("ni,ij,nj->n", apart, inverse, apart), rtol=1e-9
    )


def test_a_class_with_few_clean_inputs_has_the_mean_of_all() -> None:
    clean, decisions = correlated(60, 5)
    decisions[decisions == 2] = 1
    decisions[: MIN_OF_CLASS - 1] = 2
    decisions[MIN_OF_CLASS - 1 :][:MIN_OF_CLASS] = 0
    fitted = SiteGaussian.fit(clean, decisions, CLASSES + 1)
    assert fitted.groups.tolist() == [1, 2, 0, 0], "the last class has no clean input"
    overall = np.repeat(clean.mean(axis=0)[None], 2, axis=0)
    np.testing.assert_allclose(fitted(overall, np.array([2, 3])), 0, atol=1e-9)
    own = clean[decisions == 1].mean(axis=0)[None]
    np.testing.assert_allclose(fitted(own, np.array([1])), 0, atol=1e-9)
    assert fitted(own, np.array([2]))[0] > 0.01


def test_a_channel_that_is_constant_over_clean_inputs_does_not_make_distances_infinite() -> None:
    clean, decisions = correlated(60, 4)
    clean[:, 2] = 7.0
    fitted = SiteGaussian.fit(clean, decisions, CLASSES)
    alone = SiteGaussian.fit(np.delete(clean, 2, axis=1), decisions, CLASSES)
    expected = alone(np.delete(clean, 2, axis=1), decisions)
    np.testing.assert_allclose(fitted(clean, decisions), expected, rtol=1e-9)
    moved = clean.copy()
    moved[:, 2] += 1
    distances = fitted(moved, decisions)
    assert np.isfinite(distances).all()
    assert (distances > expected).all()


def test_features_that_are_all_constant_have_no_distance() -> None:
    decisions = np.arange(60) % CLASSES
    fitted = SiteGaussian.fit(np.full((60, 4), 2.5), decisions, CLASSES)
    np.testing.assert_allclose(fitted(np.full((5, 4), 2.5), decisions[:5]), np.zeros(5), atol=1e-12)  # rounding
    step = 2.5 * LEAST_VARIATION  # one standard deviation, by the lower limit
    np.testing.assert_allclose(fitted(np.full((1, 4), 2.5 + step), decisions[:1]), [4 / SHRINKAGE])
    silent = SiteGaussian.fit(np.zeros((60, 4)), decisions, CLASSES)
    np.testing.assert_allclose(silent(np.ones((1, 4)), decisions[:1]), [4 / SHRINKAGE])


def test_the_scale_and_the_level_of_a_channel_do_not_change_distances() -> None:
    clean, decisions = correlated(60, 6)
    other = clean * np.geomspace(0.2, 5, 6) - np.arange(6)
    ours, theirs = (SiteGaussian.fit(each, decisions, CLASSES)(each, decisions) for each in (clean, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
