"""Which null a calibration takes, from what clean inputs show."""

from dataclasses import replace

import numpy as np
import pytest

from mmguard.calibrate.learning.cross_fit import split_folds
from mmguard.errors import OptionError
from mmguard.pipeline.null_fit import fit_null
from mmguard.settings.presets import DEFAULT
from mmguard.settings.settings import Null
from mmguard.types import Calibration, FloatArray
from tests.detection.test_mmdf import clean_logits

THETA = 0.01
SETTINGS = replace(DEFAULT, theta=THETA)


def odd_logits(n: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Clean logits of which a few per cent are clipped by far more than a transform to a Gaussian explains."""
    original, clipped = clean_logits(n, 5, seed)
    odd = np.random.default_rng(seed + 1000).random(n) < 0.03
    clipped[odd] -= 2 * original[odd].clip(min=0)
    return original, clipped


def learned(original: FloatArray, clipped: FloatArray) -> Calibration:
    before, after = original.astype(np.float32), clipped.astype(np.float32)
    return Calibration({}, before, after, after, 1, True)


def test_the_null_is_of_logits_that_were_held_out() -> None:
    original, clipped = clean_logits(400, 5, 0)
    calibration, parts = learned(original, clipped), split_folds(400, 5, 0)
    expected, scores = fit_null(calibration, SETTINGS, parts)
    other = replace(calibration, clipped_logits=np.zeros_like(calibration.clipped_logits))
    null, own = fit_null(other, SETTINGS, parts)
    assert null == expected
    np.testing.assert_array_equal(own, scores)


def kind_of(logits: tuple[FloatArray, FloatArray], kind: Null = "auto") -> str:
    parts = split_folds(len(logits[0]), 5, 0)
    return fit_null(learned(*logits), replace(SETTINGS, null=kind), parts)[0].kind


def test_ranks_stand_in_for_a_fit_that_clean_inputs_contradict(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert kind_of(odd_logits(600, 0)) == "empirical"
    assert "of 600 clean inputs have p <= 0.01 under the fitted null, which is more than chance explains" in caplog.text
    assert kind_of(clean_logits(600, 5, 0)) == "gaussian"


def test_a_kind_that_is_asked_for_is_kept() -> None:
    assert kind_of(odd_logits(600, 0), "gaussian") == "gaussian"
    assert kind_of(clean_logits(600, 5, 0), "empirical") == "empirical"


def test_few_inputs_bound_the_fit_by_their_ranks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert kind_of(clean_logits(199, 5, 0)) == "bounded"
    assert "199 clean inputs are too few to confirm the fitted null" in caplog.text
    assert "provide at least 200" in caplog.text
    assert kind_of(clean_logits(200, 5, 0)) == "gaussian"
    assert kind_of(clean_logits(30, 5, 0), "gaussian") == "gaussian"


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("odd", [False, True])
def test_few_inputs_keep_the_level(n: int, odd: bool) -> None:
    def draw(n: int, seed: int) -> tuple[FloatArray, FloatArray]:
        return odd_logits(n, seed) if odd else clean_logits(n, 5, seed)

    rates = []
    for seed in range(20):
        null, _ = fit_null(learned(*draw(n, seed)), SETTINGS, split_folds(n, 5, 0))
        rates.append(float((null.test()(*draw(5000, 100 + seed)).p_values <= THETA).mean()))
    assert np.mean(rates) < 1.5 * THETA


def test_a_model_that_does_not_show_the_level_of_its_logits_is_tested_without_it() -> None:
    calibration, parts = learned(*clean_logits(400, 5, 0)), split_folds(400, 5, 0)
    for centred, names in (
        (False, ["residual_margin_gap", "residual_norm", "original_margin"]),
        (True, ["residual_margin_gap", "centred_residual_norm", "original_margin"]),
    ):
        null, _ = fit_null(calibration, SETTINGS, parts, centred=centred)
        assert [criterion.statistic for criterion in null.criteria] == names


@pytest.mark.parametrize("centred", [False, True])
def test_activations_are_read_where_there_are_any(centred: bool) -> None:
    calibration, parts = learned(*clean_logits(400, 5, 0)), split_folds(400, 5, 0)
    activations = np.random.default_rng(0).chisquare(9, (400, 3))
    null, scores = fit_null(calibration, SETTINGS, parts, activations, centred)
    norm = "centred_residual_norm" if centred else "residual_norm"
    names = ["supported_margin_gap", norm, "activation_distance", "activation_excess", "original_margin"]
    assert [criterion.statistic for criterion in null.criteria] == names
    assert scores.shape == (400,)
    unseen = np.random.default_rng(1).chisquare(9, (400, 3))
    for columns in (slice(2), slice(2, 3)):
        far = unseen.copy()
        far[:, columns] *= 20
        assert null.test()(*clean_logits(400, 5, 1), far).improbable.mean() > 0.5


@pytest.mark.parametrize("zeros", [0.05, 0.2, 1.0])
def test_an_excess_that_is_mostly_0_is_not_tested(zeros: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    calibration, parts = learned(*clean_logits(400, 5, 0)), split_folds(400, 5, 0)
    activations = np.random.default_rng(0).chisquare(9, (400, 3))
    activations[: round(400 * zeros), 2] = 0
    null, _ = fit_null(calibration, SETTINGS, parts, activations)
    names = [criterion.statistic for criterion in null.criteria]
    assert ("activation_excess" in names) == (zeros == 0.05)
    assert "activation_distance" in names
    assert ("is 0 for more than 10 % of the clean inputs" in caplog.text) == (zeros != 0.05)
    if zeros == 1:
        with pytest.raises(OptionError, match="cannot read activation_excess of this model"):
            fit_null(calibration, replace(SETTINGS, statistics=("activation_excess",)), parts, activations)


def test_all_statistics_together_keep_the_level() -> None:
    rates = []
    for seed in range(8):
        (seen, seen_clipped), (unseen, unseen_clipped) = clean_logits(600, 5, seed), clean_logits(10_000, 5, 100 + seed)
        rng = np.random.default_rng(seed)
        null, _ = fit_null(learned(seen, seen_clipped), SETTINGS, split_folds(600, 5, 0), rng.chisquare(9, (600, 3)))
        verdicts = null.test()(unseen, unseen_clipped, rng.chisquare(9, (10_000, 3)))
        rates.append(float((verdicts.p_values <= THETA).mean()))
    # the statistics share their margins, so that Šidák's level is an upper limit; the fit itself is uncertain
    assert 0.2 * THETA < np.mean(rates) < 1.5 * THETA


def test_the_level_is_kept_where_the_fit_alone_exceeds_it() -> None:
    rates: dict[Null, list[float]] = {"auto": [], "gaussian": []}
    for seed in range(8):
        calibration, unseen = learned(*odd_logits(600, seed)), odd_logits(10_000, 100 + seed)
        for kind, of_kind in rates.items():
            null, _ = fit_null(calibration, replace(SETTINGS, null=kind), split_folds(600, 5, 0))
            of_kind.append(float((null.test()(*unseen).p_values <= THETA).mean()))
    assert np.mean(rates["gaussian"]) > 2 * THETA
    assert 0.5 * THETA < np.mean(rates["auto"]) < 1.2 * THETA


@pytest.mark.parametrize(("given", "kept"), [(None, THETA), (1.0, 1.0), (0.0, 0.0)])
def test_a_disagreement_has_the_level_of_the_settings_or_theta(given: float | None, kept: float) -> None:
    calibration, parts = learned(*clean_logits(400, 5, 0)), split_folds(400, 5, 0)
    null, _ = fit_null(calibration, replace(SETTINGS, disagreement_theta=given), parts)
    assert (null.theta, null.disagreement_theta) == (THETA, kept)


def test_inputs_that_bounds_leave_as_they_are_make_a_null_unless_all_are() -> None:
    original, clipped = clean_logits(400, 5, 0)
    clipped[:300] = original[:300]
    null, _ = fit_null(learned(original, clipped), SETTINGS, split_folds(400, 5, 0))
    assert null.n == 400
    with pytest.raises(OptionError, match="the bounds clip nothing"):
        fit_null(learned(original, original), SETTINGS, split_folds(400, 5, 0))
