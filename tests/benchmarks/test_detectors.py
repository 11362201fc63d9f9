"""What holds for every input detector, and what each one's paper defines."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from benchmarks.cifar import Images, Labels
from benchmarks.detectors import (
    DETECTORS,
    PUBLISHED,
    Detector,
    IbdPsc,
    MaxSoftmax,
    OriginalMargin,
    ScaleUp,
    Strip,
    mmdf,
)
from benchmarks.detectors.ibd_psc import normalisations, scaled
from benchmarks.detectors.scale_up import amplify, class_statistics, consistency
from benchmarks.detectors.strip import boundary, entropies, entropy, superimpose
from benchmarks.suspect import CleanSet, Logits, Suspect, predict
from tests.benchmarks.synthetic import images_and_labels

SMALL: dict[str, dict[str, Any]] = {
    "STRIP": {"overlays": 6, "theta": 0.1},
    "SCALE-UP": {"factors": (3, 7)},
    "SCALE-UP data-free": {"factors": (3, 7)},
    "IBD-PSC": {"networks": 2},
    "TED": {"theta": 0.1},
    "TED++": {"theta": 0.1},
    "TED-LaST": {"theta": 0.1},
    "Mahalanobis": {"theta": 0.1},
    "Beatrix": {"theta": 0.1, "orders": (1, 2, 3)},
    "max softmax": {"theta": 0.1},
    "original margin": {"theta": 0.1},
}
# Rounding differs with the size of the batch; a count of kept decisions does not feel it.
ROUNDING = 1e-4

every_detector = pytest.mark.parametrize("name", sorted(SMALL))


class Fake(Suspect):
    """A suspect whose logits are computed by a function of the images."""

    def __init__(self, function: Callable[[Images], NDArray[Any]]) -> None:
        super().__init__(Path("fake.onnx"), {})
        object.__setattr__(self, "function", function)

    def logits(self, x: Images) -> Logits:
        values: Logits = self.__dict__["function"](x).astype(np.float32)
        return values


def make(name: str) -> Detector:
    return replace(DETECTORS[name](), **SMALL[name])


def plain(*levels: int) -> Images:
    """One image of a single grey level for each."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 32, 32, 3)).copy()


@pytest.fixture(scope="module")
def inputs(suspect: Suspect) -> Images:
    """Eight clean images and the same with the trigger."""
    x, _ = images_and_labels(8, 4)
    return np.concatenate([x, suspect.attack.trigger(x)])


def test_these_are_all_detectors() -> None:
    assert set(SMALL) == {name for name in DETECTORS if not name.startswith("MMDF")}


@every_detector
def test_verdicts_have_their_form(name: str, suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    detector = make(name)
    assert detector.per_class >= 0
    assert detector.forwards >= 1
    verdicts = detector.fit(suspect, clean, 0).verdicts(inputs)
    assert verdicts.scores.shape == verdicts.flagged.shape == (16,)
    assert verdicts.scores.dtype == np.float64
    assert verdicts.flagged.dtype == np.bool_
    assert np.isfinite(verdicts.scores).all()
    if verdicts.flagged.any() and not verdicts.flagged.all():
        assert verdicts.scores[verdicts.flagged].min() > verdicts.scores[~verdicts.flagged].max()


@every_detector
def test_a_seed_settles_everything(name: str, suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    first, second = (make(name).fit(suspect, clean, 3).verdicts(inputs) for _ in range(2))
    np.testing.assert_allclose(first.scores, second.scores, atol=ROUNDING, rtol=ROUNDING)
    assert np.array_equal(first.flagged, second.flagged)


@every_detector
def test_each_image_is_scored_on_its_own(name: str, suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    judge = make(name).fit(suspect, clean, 0)
    together = judge.verdicts(inputs).scores
    alone = np.concatenate([judge.verdicts(image[None]).scores for image in inputs])
    np.testing.assert_allclose(alone, together, atol=ROUNDING, rtol=ROUNDING)
    backwards = judge.verdicts(inputs[::-1]).scores[::-1]
    np.testing.assert_allclose(backwards, together, atol=ROUNDING, rtol=ROUNDING)


@every_detector
def test_no_images_get_no_verdicts(name: str, suspect: Suspect, clean: CleanSet) -> None:
    verdicts = make(name).fit(suspect, clean, 0).verdicts(clean.x[:0])
    assert verdicts.scores.shape == verdicts.flagged.shape == (0,)
    assert verdicts.scores.dtype == np.float64
    assert verdicts.flagged.dtype == np.bool_


@every_detector
def test_suspect_and_images_stay_as_they_are(name: str, suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    file, logits, images, kept = suspect.path.read_bytes(), suspect.logits(inputs), clean.x.copy(), inputs.copy()
    make(name).fit(suspect, clean, 0).verdicts(inputs)
    assert suspect.path.read_bytes() == file
    assert np.array_equal(suspect.logits(inputs), logits)
    assert np.array_equal(clean.x, images)
    assert np.array_equal(inputs, kept)


def test_peers_have_published_figures() -> None:
    # The public description of TED-LaST has no figures.
    assert set(PUBLISHED) == set(SMALL) - {"max softmax", "original margin", "TED-LaST"}
    figures = [figure for published in PUBLISHED.values() for figure in published.figures.values()]
    assert all(0 <= figure <= 1 for figure in figures)


# STRIP


def bits(x: Images) -> NDArray[np.float64]:
    """Four equal classes below level 100, two below 200, one from there on: entropies of 2, 1 and 0 bits."""
    rows = np.array([[0, 0, 0, 0], [0, 0, -1e4, -1e4], [0, -1e4, -1e4, -1e4]])
    return rows[np.digitize(x[:, 0, 0, 0], [100, 200])]


def soft_logits(x: Images) -> NDArray[np.float64]:
    """Linear in the colours of the middle pixel, and of a few units."""
    return (x[:, 16, 16].astype(np.float64) - 250) @ np.random.default_rng(6).normal(0, 0.01, (3, 4))


def test_entropy_is_in_bits() -> None:
    np.testing.assert_allclose(entropy(bits(plain(0, 100, 200)).astype(np.float32)), [2, 1, 0], atol=1e-12)
    expected = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    np.testing.assert_allclose(entropy(np.log(np.array([[1, 3]], np.float32))), [expected], rtol=1e-6)


def test_images_are_added_and_not_clipped() -> None:
    summed = superimpose(plain(255, 3), plain(0, 1, 255))
    assert summed.shape == (2, 3, 32, 32, 3)
    assert np.array_equal(summed[..., 0, 0, 0], [[255, 256, 510], [3, 4, 258]])


def test_strip_scores_minus_the_mean_entropy() -> None:
    judge = Strip(overlays=3).fit(Fake(bits), CleanSet(plain(0, 100, 200), np.arange(3)), 0)
    # 50 becomes 50, 150 and 250; 120 becomes 120, 220 and 320; 200 becomes 200, 300 and 400.
    np.testing.assert_allclose(
        judge.verdicts(plain(50, 120, 200)).scores, [-(2 + 1 + 0) / 3, -(1 + 0 + 0) / 3, 0], atol=1e-12
    )


@pytest.mark.parametrize("theta", [0.005, 0.3])
def test_the_boundary_is_the_quantile_of_the_fitted_normal(theta: float) -> None:
    values = np.random.default_rng(0).normal(1.1, 0.3, 200)
    assert boundary(values, theta) == pytest.approx(norm.ppf(theta, *norm.fit(values)))
    assert boundary(np.ones(3), theta) == 1


def test_sums_reach_the_network_whole(suspect: Suspect, clean: CleanSet) -> None:
    shares = torch.from_numpy(clean.x[:8]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = suspect.module()(shares[0] + shares).numpy()
    sums: Any = superimpose(clean.x[:1], clean.x[:8])[0]
    assert sums.max() > 255
    np.testing.assert_allclose(suspect.logits(sums), expected, atol=ROUNDING, rtol=ROUNDING)


def test_strip_flags_below_the_boundary_of_d_without_itself(clean: CleanSet) -> None:
    d, theta, soft = clean.x[:12], 0.4, Fake(soft_logits)
    sums = np.array([[a.astype(int) + b for b in d] for a in d])
    each = np.array([entropy(soft.logits(row)) for row in sums])
    without = (each.sum(axis=1) - each.diagonal()) / (len(d) - 1)
    limit = norm.ppf(theta, *norm.fit(without))
    verdicts = Strip(overlays=100, theta=theta).fit(soft, CleanSet(d, clean.y[:12]), 5).verdicts(d)
    np.testing.assert_allclose(verdicts.scores, -each.mean(axis=1), rtol=1e-6)
    assert np.array_equal(verdicts.flagged, each.mean(axis=1) < limit)
    assert 0 < verdicts.flagged.sum() < 12


def test_entropies_do_not_depend_on_how_sums_are_put_together(clean: CleanSet) -> None:
    soft, x = Fake(soft_logits), clean.x[:12]
    for overlays in (clean.x[:1], clean.x[:70]):
        expected = [[entropy(soft.logits(superimpose(a[None], b[None])[0]))[0] for b in overlays] for a in x]
        np.testing.assert_allclose(entropies(soft, x, overlays), expected, rtol=1e-6)


def test_overlays_are_drawn_by_the_seed(clean: CleanSet) -> None:
    first, again, other = (
        Strip(overlays=3).fit(Fake(soft_logits), clean, seed).verdicts(clean.x).scores for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.isclose(first, other).any()


# SCALE-UP


def bright(x: Images) -> Labels:
    """Class 1 from level 128 on, else class 0."""
    return (x[:, 0, 0, 0] >= 128).astype(np.int64)


BRIGHT = Fake(lambda x: np.eye(3)[bright(x)])
# Level 20 reaches 60, 100, 140, 180 and 220; level 12 reaches 132 last; 10 reaches 110, and 200 is white thrice over.
LEVELS = plain(20, 12, 10, 200)
SPC = [0.4, 0.8, 1, 1]


def test_amplified_pixels_are_clipped_at_white() -> None:
    assert np.array_equal(amplify(plain(0, 20, 85, 86, 255), 3), plain(0, 60, 255, 255, 255))


def test_spc_is_the_share_of_copies_that_keep_the_decision() -> None:
    spc, labels = consistency(bright, LEVELS, (3, 5, 7, 9, 11))
    np.testing.assert_allclose(spc, SPC)
    assert np.array_equal(labels, [0, 0, 0, 1])


def test_scale_up_without_data_scores_by_spc() -> None:
    judge = ScaleUp(data_limited=False).fit(BRIGHT, CleanSet(LEVELS[:0], np.zeros(0, np.int64)), 0)
    np.testing.assert_allclose(judge.verdicts(LEVELS).scores, SPC)
    assert np.array_equal(judge.verdicts(LEVELS).flagged, [False, True, True, True])
    assert ScaleUp(data_limited=False).per_class == 0


def test_spc_is_standardised_by_the_class_that_is_decided_on() -> None:
    judge = ScaleUp().fit(BRIGHT, CleanSet(plain(20, 12, 200, 210), np.array([0, 0, 1, 1])), 0)
    # Class 0 has SPC 0.4 and 0.8; class 1 has 1 twice, and is divided by the deviation of all four.
    np.testing.assert_allclose(judge.verdicts(LEVELS).scores, [-1, 1, 2, 0], atol=1e-12)
    assert np.array_equal(judge.verdicts(LEVELS).flagged, [False, True, True, False])


def test_statistics_of_classes() -> None:
    mean, deviation = class_statistics(np.array([0.4, 0.8, 1, 1]), np.array([0, 0, 1, 1]), 3)
    overall = float(np.std([0.4, 0.8, 1, 1]))
    np.testing.assert_allclose(mean, [0.6, 1, 0.8])
    np.testing.assert_allclose(deviation, [0.2, overall, overall])
    equal = np.full(51, 0.6)
    assert equal.std() != 0
    assert np.array_equal(class_statistics(equal, np.zeros(51, np.int64), 1)[1], [1])


# IBD-PSC


def layers(module: nn.Module) -> list[nn.BatchNorm2d]:
    """In the order of registration, which for the fixture's ResNet is that of running."""
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]


def by_hand(suspect: Suspect, depth: int, omega: float) -> nn.Module:
    module = suspect.module()
    for layer in layers(module)[-depth:]:
        layer.weight.data = layer.weight.data * omega
        layer.bias.data = layer.bias.data * omega
    return module


class Crossed(nn.Module):
    """Registers first what runs last, runs one layer twice, and leaves one out."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused, self.twice, self.first = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.twice(self.twice(self.first(x))))
        return result


def test_layers_come_in_the_order_in_which_they_run(suspect: Suspect) -> None:
    module = suspect.module()
    assert [module.get_submodule(name) for name in normalisations(module)] == layers(module)
    assert len(layers(module)) == 1 + 3 * 2 + 2
    assert normalisations(Crossed()) == ["first", "twice", "last"]
    with pytest.raises(ValueError, match="BatchNorm2d"):
        normalisations(nn.Conv2d(3, 1, 1))


@pytest.mark.parametrize("depth", [1, 4, 9])
def test_exactly_the_last_layers_are_scaled(depth: int, suspect: Suspect) -> None:
    module = suspect.module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = scaled(module, normalisations(module)[-depth:], 1.5).state_dict()
    expected = by_hand(suspect, depth, 1.5).state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    changed = [name for name in before if not torch.equal(state[name], before[name])]
    assert len(changed) == 2 * depth


@pytest.mark.parametrize("error_rate", [0.05, 0.3, 0.6, 1.0])
def test_the_first_depth_is_the_least_with_so_many_errors(error_rate: float, suspect: Suspect, clean: CleanSet) -> None:
    detector, module = IbdPsc(omega=3, error_rate=error_rate), suspect.module()
    errors = [(predict(by_hand(suspect, i, 3), clean.x).argmax(axis=1) != clean.y).mean() for i in range(1, 10)]
    above = [depth for depth, share in enumerate(errors, start=1) if share > error_rate]
    assert detector.first_depth(module, normalisations(module), clean) == (above[0] if above else 9)


@pytest.mark.parametrize("error_rate", [0.05, 1.0])
def test_psc_is_the_mean_confidence_in_the_original_decision(
    error_rate: float, suspect: Suspect, clean: CleanSet, inputs: Images
) -> None:
    detector, module = IbdPsc(omega=3, networks=3, error_rate=error_rate), suspect.module()
    first = detector.first_depth(module, normalisations(module), clean)
    labels = torch.from_numpy(suspect.logits(inputs).argmax(axis=1))
    logits = [torch.from_numpy(predict(by_hand(suspect, i, 3), inputs)) for i in range(first, min(first + 3, 10))]
    expected = torch.stack([each.softmax(dim=1)[torch.arange(16), labels] for each in logits]).mean(dim=0)
    verdicts = detector.fit(suspect, clean, 0).verdicts(inputs)
    np.testing.assert_allclose(verdicts.scores, expected.numpy(), atol=ROUNDING)
    assert np.array_equal(verdicts.flagged, verdicts.scores > 0.9)


# The baselines


def test_confidence_and_margin_by_hand(suspect: Suspect, clean: CleanSet, inputs: Images) -> None:
    logits = np.sort(suspect.logits(inputs).astype(np.float64), axis=1)
    confidence = 1 / np.exp(logits - logits[:, -1:]).sum(axis=1)
    np.testing.assert_allclose(MaxSoftmax().fit(suspect, clean, 0).verdicts(inputs).scores, confidence, atol=ROUNDING)
    expected = logits[:, -1] - logits[:, -2]
    np.testing.assert_allclose(OriginalMargin().fit(suspect, clean, 0).verdicts(inputs).scores, expected, atol=ROUNDING)


@pytest.mark.parametrize("detector", [MaxSoftmax(theta=0.1), OriginalMargin(theta=0.1)])
def test_a_baseline_flags_the_share_of_d_that_it_may(detector: Detector, clean: CleanSet) -> None:
    confident = Fake(lambda x: np.outer(np.arange(len(x)), np.eye(10)[0]) / len(x))
    assert np.array_equal(detector.fit(confident, clean, 0).verdicts(clean.x).flagged, np.arange(100) >= 90)
    undecided = Fake(lambda x: np.zeros((len(x), 10)))
    assert not detector.fit(undecided, clean, 0).verdicts(clean.x).flagged.any()


def test_p_values_at_their_ends_have_finite_scores(clean: CleanSet, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = SimpleNamespace(p_values=np.array([0, 0.005, 0.5, 1]), flagged=np.array([True, True, False, False]))
    monkeypatch.setattr(mmdf, "calibrated", lambda *_: (None, {}))
    monkeypatch.setattr(mmdf, "decide", lambda *_: decision)
    scores = mmdf.Mmdf().fit(Fake(lambda x: x), clean, 0).verdicts(clean.x[:4]).scores
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[1:3], norm.isf([0.005, 0.5]), atol=1e-12)
    assert (np.diff(scores) < 0).all()
