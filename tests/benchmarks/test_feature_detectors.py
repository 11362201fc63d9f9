"""What the papers define of the detectors that read activations."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, mahalanobis
from torch import nn

from benchmarks.cifar import Images
from benchmarks.detectors.activations import Tracer, is_relu, is_weighted_or_relu
from benchmarks.detectors.beatrix import Range, deviations, gram_features
from benchmarks.detectors.judging import FOLDS, held_out
from benchmarks.detectors.mahalanobis import ClassGaussians, channel_means
from benchmarks.detectors.neighbours import Nearest, Neighbourhood
from benchmarks.detectors.ted import PcaOutliers, screened
from benchmarks.detectors.ted_last import TedLast, modularity, weights
from benchmarks.suspect import CleanSet, Suspect, to_tensor
from tests.benchmarks.synthetic import images_and_labels

# Squared distances are differences of float32 products, so those that are small against the spread of D lose digits.
ROUNDING = 1e-2


@pytest.fixture(scope="module")
def inputs() -> Images:
    return images_and_labels(12, 7)[0]


# Activations


def test_relus_are_recorded_as_they_run(suspect: Suspect, inputs: Images) -> None:
    module: Any = suspect.module()
    network = module[1]
    trace = Tracer(suspect, is_relu)(inputs)
    with torch.no_grad():
        first = network.relu(network.stem(module[0](to_tensor(inputs))))
        last = network.blocks(first)
        labels = network.head(last.mean(dim=(2, 3))).argmax(dim=1)
    assert len(trace.layers) == 1 + 2 * len(network.blocks)
    torch.testing.assert_close(trace.layers[0], first)
    torch.testing.assert_close(trace.layers[-1], last)
    assert np.array_equal(trace.labels, labels.numpy())


def test_shortcuts_are_no_layers(suspect: Suspect, inputs: Images) -> None:
    assert not is_weighted_or_relu(nn.Conv2d(2, 2, 1))
    assert is_weighted_or_relu(nn.Conv2d(2, 2, 3))
    # Each of seven convolutions is followed by a ReLU; the linear layer comes last.
    layers = Tracer(suspect, is_weighted_or_relu)(inputs).layers
    assert len(layers) == 7 + 7 + 1
    assert layers[-1].shape == (12, 10)
    with pytest.raises(ValueError, match="no layer"):
        Tracer(suspect, lambda _: False)


# TED and TED++


def points(suspect: Suspect, x: Images) -> list[NDArray[np.float64]]:
    return [layer.flatten(1).double().numpy() for layer in Tracer(suspect, is_weighted_or_relu)(x).layers]


def test_ranks_count_the_nearer_images(suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    neighbourhood = Neighbourhood(suspect, clean.x)
    nearest = neighbourhood.of_others(inputs)
    assert np.array_equal(nearest.labels, suspect.logits(inputs).argmax(axis=1))
    same = nearest.labels[:, None] == neighbourhood.labels
    for place, (mine, others) in enumerate(zip(points(suspect, clean.x), points(suspect, inputs), strict=True)):
        distances = cdist(others, mine)
        least = np.where(same, distances, np.inf).min(axis=1)
        np.testing.assert_allclose(nearest.distances[:, place], least, rtol=ROUNDING)
        # Rounding can swap two neighbours at almost the same distance.
        assert np.abs(nearest.ranks[:, place] - (distances < least[:, None]).sum(axis=1)).max() <= 1
        chosen = distances[np.arange(12), nearest.indices[:, place]]
        np.testing.assert_allclose(chosen, least, rtol=ROUNDING)


def test_an_image_of_d_is_not_its_own_neighbour(suspect: Suspect, clean: CleanSet) -> None:
    neighbourhood = Neighbourhood(suspect, clean.x)
    nearest = neighbourhood.of_own()
    assert (nearest.indices != np.arange(100)[:, None]).all()
    assert (nearest.distances > 0).all()


def test_radii_and_graphs_by_hand(suspect: Suspect, clean: CleanSet) -> None:
    neighbourhood = Neighbourhood(suspect, clean.x)
    radii, graphs = neighbourhood.radii(0.5), list(neighbourhood.graphs(4))
    labels = neighbourhood.labels
    for place, mine in enumerate(points(suspect, clean.x)):
        distances = cdist(mine, mine)
        np.fill_diagonal(distances, np.inf)
        for row in range(0, 100, 9):
            others = np.sort(distances[row, (labels == labels[row]) & (np.arange(100) != row)])
            assert radii[row, place] == pytest.approx(others[int(np.ceil(0.5 * len(others))) - 1], rel=ROUNDING)
        chosen = distances <= np.sort(distances, axis=1)[:, [3]]
        assert np.array_equal(graphs[place], chosen | chosen.T)


def test_a_decision_without_images_in_d_has_the_worst_rank(suspect: Suspect, clean: CleanSet) -> None:
    decided = suspect.logits(clean.x).argmax(axis=1)
    neighbourhood = Neighbourhood(suspect, clean.x[decided != 3])
    nearest = neighbourhood.of_others(clean.x[decided == 3])
    assert (nearest.ranks == (decided != 3).sum() - 1).all()
    assert np.isinf(nearest.distances).all()


def test_inputs_outside_of_the_tube_have_the_worst_rank() -> None:
    nearest = Nearest(
        ranks=np.array([[0.0, 1.0], [2.0, 0.0]]),
        distances=np.array([[1.0, 5.0], [3.0, 1.0]]),
        indices=np.array([[0, 1], [2, 2]]),
        labels=np.array([0, 0]),
    )
    radii = np.array([[1.0, 9.0], [9.0, 4.0], [2.0, 2.0]])
    assert np.array_equal(screened(nearest, None), nearest.ranks)
    assert np.array_equal(screened(nearest, radii), [[0, 2], [2, 0]])


def test_the_pca_detector_weights_distances_to_components() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 3)) @ generator.normal(size=(3, 3))
    others = generator.normal(size=(5, 3))
    spread = vectors.std(axis=0)
    values, directions = np.linalg.eigh(np.corrcoef(vectors.T))
    expected = np.zeros(5)
    for value, direction in zip(values[:0:-1], directions.T[:0:-1], strict=True):
        signed = direction * np.sign(direction[np.abs(direction).argmax()])
        standardised = (others - vectors.mean(axis=0)) / spread
        expected += np.linalg.norm(standardised - signed, axis=1) / (value / 3)
    np.testing.assert_allclose(PcaOutliers(vectors, 2).scores(others), expected)


def test_a_constant_layer_keeps_its_unit() -> None:
    vectors = np.array([[0.0, 7.0], [2.0, 7.0]])
    # The only component is (1, 0); (1, 7) is at 0, and (1, 10) is three units away from it.
    np.testing.assert_allclose(PcaOutliers(vectors, 2).scores(np.array([[1.0, 7.0], [1.0, 10.0]])), [1, 10**0.5])
    assert np.array_equal(PcaOutliers(np.ones((3, 2)), 2).scores(np.ones((1, 2))), [0])


# TED-LaST


def test_modularity_of_two_cliques() -> None:
    graph = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)
    np.fill_diagonal(graph, False)
    assert modularity(graph, np.arange(6) < 3) == pytest.approx(0.5)
    assert modularity(graph, np.ones(6, bool)) == pytest.approx(0)
    # Of six edges, two are within the parts {0} and {1} to {5}, if one clique is cut: 4 / 6 - (2 / 12)^2 - (10 / 12)^2.
    assert modularity(graph, np.arange(6) < 1) == pytest.approx(4 / 6 - 104 / 144)


def test_layers_that_separate_a_class_get_more_weight() -> None:
    labels = np.repeat([0, 1], 3)
    apart = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)
    mixed = ~apart
    np.fill_diagonal(apart, False)
    assert np.array_equal(weights([mixed, apart], labels)[1], [0, 1])
    assert np.array_equal(weights([apart, apart], labels)[0], [1, 1])


def test_a_class_with_one_image_is_judged_by_all_of_d(suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    decided = suspect.logits(clean.x).argmax(axis=1)
    kept = (decided != 3) | (np.arange(100) == np.flatnonzero(decided == 3)[0])
    judge = TedLast().fit(suspect, CleanSet(clean.x[kept], clean.y[kept]), 0)
    assert np.isfinite(judge.verdicts(clean.x).scores).all()


# Mahalanobis


def test_distances_use_one_covariance_for_all_classes() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    features, others = generator.normal(size=(60, 4)) + 3 * y[:, None], generator.normal(size=(5, 4))
    means = [features[y == label].mean(axis=0) for label in range(3)]
    covariance = np.mean([np.cov(features[y == label].T, bias=True) for label in range(3)], axis=0)
    inverse = np.linalg.inv(covariance)
    expected = [min(mahalanobis(each, mean, inverse) ** 2 for mean in means) for each in others]
    np.testing.assert_allclose(ClassGaussians(features, y).distances(others), expected)
    # A feature that never varies is left out.
    wider = ClassGaussians(np.column_stack([features, np.ones(60)]), y)
    np.testing.assert_allclose(wider.distances(np.column_stack([others, np.zeros(5)])), expected)


def test_features_are_means_of_channels(suspect: Suspect, inputs: Images) -> None:
    tracer = Tracer(suspect, is_relu)
    for means, layer in zip(channel_means(tracer, inputs), tracer(inputs).layers, strict=True):
        np.testing.assert_allclose(means, layer.numpy().mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)


def test_no_image_is_scored_by_a_fit_that_saw_it() -> None:
    y = np.repeat(np.arange(4), 5)
    sizes = []

    def score_rest(fitted: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.float64]:
        assert not (fitted & others).any()
        assert (fitted | others).all()
        sizes.append(np.bincount(y[others], minlength=4).tolist())
        return np.flatnonzero(others).astype(np.float64)

    assert np.array_equal(held_out(score_rest, y), np.arange(20))
    assert sizes == [[1, 1, 1, 1]] * FOLDS


# Beatrix


def test_gram_features_are_roots_of_sums_of_powers() -> None:
    layer = np.random.default_rng(0).uniform(0, 3, (2, 3, 2, 2)).astype(np.float32)
    features = gram_features(torch.from_numpy(layer), (1, 3))
    assert features.shape == (2, 2, 6)
    maps = layer.reshape(2, 3, 4).astype(np.float64)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    for place, order in enumerate((1, 3)):
        for column, (a, b) in enumerate(pairs):
            expected = ((maps[:, a] * maps[:, b]) ** order).sum(axis=1) ** (1 / order)
            np.testing.assert_allclose(features[:, place, column], expected, rtol=1e-5)


def test_deviations_are_relative_to_the_end_of_the_range() -> None:
    # Median 4 and deviation 1: with a spread of 2, the range is 2 to 6.
    values = np.array([3, 4, 5, 4, 3, 5], np.float32).reshape(-1, 1, 1)
    least = np.full((1, 1), 0.5, np.float32)
    wide = Range.of(values, 2, least)
    features = np.array([1, 2, 5, 6, 9], np.float32).reshape(-1, 1, 1)
    np.testing.assert_allclose(wide.deviations(features), [0.5, 0, 0, 0, 0.5])
    # The range of a feature that is always 0 has ends of size 0, which the least size replaces.
    silent = Range.of(np.zeros_like(values), 2, least)
    np.testing.assert_allclose(silent.deviations(features), [2, 4, 10, 12, 18])
    both = deviations({0: wide, 1: silent}, features[[0, 0]], np.array([0, 1]))
    np.testing.assert_allclose(both, [0.5, 2])
