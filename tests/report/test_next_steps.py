"""What the page tells a reader to do, and that its figures and its text agree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import betabinom

from mmguard import Bundle, Settings
from mmguard.bundle.manifest import Manifest
from mmguard.report import render
from mmguard.types import FloatArray
from tests.report.pages import Reader, evidence_of, with_classes, with_scales

NAMES = tuple(f"class {i}" for i in range(10))
EVEN = np.linspace(20.0, 30.0, 10)
FAINT = np.array([-6.1, -3.9, -7.0, -5.6, -1.9, -6.6, -3.5, -5.9, -4.2, -6.9])


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """The tiny bundle's, of ten classes without a sign of a backdoor."""
    return with_classes(Bundle.open(tiny_bundle).manifest, NAMES, EVEN, EVEN / 2)


def read(manifest: Manifest) -> Reader:
    page = Reader(render(manifest, evidence_of(manifest)))
    page.text = page.text.replace("\u00a0", " ").replace("\u202f", " ")
    return page


def planted(value: float) -> FloatArray:
    margins = EVEN.copy()
    margins[4] = value
    return margins


def test_a_backdoored_model_is_not_to_be_deployed_and_its_class_is_to_be_looked_at(manifest: Manifest) -> None:
    text = read(with_classes(manifest, NAMES, planted(200.0), EVEN / 2)).text
    for said in (
        "Do not put this model into service",
        "the network predicts class class 4",
        "mmguard serve BUNDLE --on-flag abstain",
        "Review the inputs that the model has already assigned to class class 4",
        "mmguard scan BUNDLE INPUTS",
        "Quarantine",
    ):
        assert said in text
    assert "--mode shadow" not in text, "it would answer triggers as the attacker wants"


def test_no_sign_says_what_it_does_not_mean_and_what_to_do_before_enforcing(manifest: Manifest) -> None:
    text = read(manifest).text
    for said in (
        "Treat the model as unproven, not as clean",
        "The model may still be backdoored: the audit can miss a backdoor that has many targets",
        "mmguard scan BUNDLE UNSEEN_CLEAN_INPUTS",
        "mmguard serve BUNDLE --mode shadow",
    ):
        assert said in text
    assert "Do not put" not in text


@pytest.mark.parametrize("margins", [EVEN, planted(200.0)])
def test_the_level_stands_beside_the_verdict_with_what_was_counted_in(manifest: Manifest, margins: FloatArray) -> None:
    scales = {"sample": margins, "shared": FAINT}
    text = read(with_scales(manifest, scales, scales)).text
    assert "reported at p ≤ α = 5 %" in text
    assert ("at most α = 5 %)." in text) == (margins is not EVEN)
    assert ("above α = 5 %)." in text) == (margins is EVEN)
    assert "The test is one-sided" in text
    assert "corrected for 10 classes and 2 search scales" in text


def test_the_largest_margin_is_taken_from_the_sample_scale(manifest: Manifest) -> None:
    page = read(with_scales(manifest, {"sample": EVEN, "shared": FAINT}, {"sample": EVEN / 2, "shared": FAINT + 2.01}))
    assert "30.0 → 15.0" in page.text, "as clipping lowers it"
    assert "−1.9 → 0.11" not in page.text
    assert "The table is for scale shared , which has the smallest p" in page.text
    assert "A margin below 0 (left of the thin line) shows by how many logits" in page.text
    assert "For all 10 classes, the margin is larger after clipping" in page.text
    assert "the top of the page shows how far clipping lowers the largest margin" in page.text
    assert page.count("line", "zero") == 10


def test_positive_margins_that_fall_need_no_explanation(manifest: Manifest) -> None:
    page = read(manifest)
    assert "A margin below 0" not in page.text
    assert "larger after clipping" not in page.text
    assert page.count("line", "zero") == 0


def test_the_page_says_if_the_largest_margin_rises(manifest: Manifest) -> None:
    text = read(with_classes(manifest, NAMES, EVEN, EVEN + 1)).text
    assert "30.0 → 31.0" in text
    assert "clipping does not lower it" in text
    assert "does not fall (original network: 30.0 logits; clipped network: 31.0 logits)" in text
    some = EVEN.copy()
    some[0] += 1
    assert "For 1 of 10 classes, the margin is larger" in read(with_classes(manifest, NAMES, EVEN, some)).text


def test_only_one_of_several_classes_with_the_same_name_is_suspect(manifest: Manifest) -> None:
    names = ("same",) * 10
    assert read(with_classes(manifest, names, planted(200.0), EVEN)).count("tr", "suspect") == 1


def test_classes_that_were_left_out_of_the_comparison_are_named(manifest: Manifest) -> None:
    margins = np.append(EVEN[:8], [-900.0, -950.0])
    assert (
        "Left out of the comparison at scale sample , because"
        in read(with_classes(manifest, NAMES, margins, margins)).text
    )


def test_only_a_search_without_the_classes_features_sees_many_targets(manifest: Manifest) -> None:
    quiet, loud = ({"sample": EVEN, "orthogonal": ratios} for ratios in (EVEN / 1000, EVEN))
    text = read(with_scales(manifest, quiet, quiet)).text
    assert "the audit can miss a backdoor that works on a single source class only" in text
    text = read(with_scales(manifest, loud, loud)).text
    assert "by a far larger margin than clean inputs of this class have, yet without its features" in text


def test_without_an_audit_the_page_says_why_and_shows_no_margins(manifest: Manifest) -> None:
    page = read(with_scales(manifest, {}, {}))
    assert "Not run" in page.words
    assert "calibrated with --no-audit" in page.text
    assert "calibrate it again without that option" in page.text
    assert "skipped (--no-audit)" in page.text
    assert page.count("table", "margins") == 0
    assert "Largest margin" not in page.text
    assert "α" not in page.text


def test_with_two_classes_the_page_says_why_there_is_no_verdict(manifest: Manifest) -> None:
    text = read(with_classes(manifest, ("no", "yes"), EVEN[:2], EVEN[:2] / 2)).text
    assert "No verdict two classes, and no search at the scale orthogonal" in text
    assert "calibrate again with more clean inputs" in text
    assert "Treat the model as unproven" in text
    assert "which has the smallest p" not in text


def test_a_search_cut_short_is_named_on_the_page(manifest: Manifest) -> None:
    margins = {"sample": EVEN, "orthogonal": EVEN / 10}
    named = with_classes(manifest, NAMES, EVEN, EVEN)
    figures = replace(with_scales(named, margins, margins).calibration, audit_cut=("sample", "warp"))
    text = read(replace(named, calibration=figures)).text
    assert "Shortened or left out: sample, warp" in text
    none = replace(figures, original_margins={}, clipped_margins={})
    assert "No verdict the time was too short" in read(replace(named, calibration=none)).text


def test_a_corrected_model_is_not_to_be_trusted_with_triggers(manifest: Manifest) -> None:
    page = read(replace(manifest, null=None, settings=Settings(objective="mmom")))
    assert "Do not rely on this bundle to detect triggers" in page.words
    assert page.count("table", "alerts") == 0
    assert "behind the guard" not in page.text
    assert "BUNDLE" not in page.text
    assert (
        "abstain"
        not in read(
            replace(with_classes(manifest, NAMES, planted(200.0), EVEN), null=None, settings=Settings(objective="mmom"))
        ).text
    )


@pytest.mark.parametrize(("volume", "said"), [(100, "100 inputs"), (1000, "1 000"), (10_000, "10 000")])
def test_alerts_are_at_numbers_that_clean_inputs_exceed_once_in_a_thousand_times(
    manifest: Manifest, volume: int, said: str
) -> None:
    text = read(manifest).text
    assert manifest.null is not None
    flags = betabinom(volume, 0.005 * manifest.null.n, 0.995 * manifest.null.n)
    limit = next(count for count in range(volume) if flags.sf(count) <= 0.001)
    assert f"{limit} of {said}" in text
    for counter in ("detections_total", "detections_by_label_total", "null_drift", "errors_total", "untested_total"):
        assert f"mmguard_{counter}" in text


def test_shares_are_not_rounded_to_nothing_or_to_all(manifest: Manifest) -> None:
    figures = replace(manifest.calibration, labelled=True, original_accuracy=0.99996, clipped_accuracy=0.99996)
    text = read(replace(manifest, calibration=replace(figures, agreement=0.99999, flagged_share=0.00001))).text
    assert "> 99.9 % → > 99.9 %" in text
    assert "both networks agree on > 99.9 % of inputs" in text
    assert "for any reason < 0.01 %" in text


def test_the_page_says_if_disagreements_flag_more(manifest: Manifest) -> None:
    assert manifest.null is not None
    for level, said in ((1.0, True), (0.005, False)):
        text = read(replace(manifest, null=replace(manifest.null, disagreement_theta=level))).text
        assert ("disagreements cause more flags" in text) == said
