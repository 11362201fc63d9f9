"""What the page says for every kind of bundle, and that hostile names cannot inject anything into it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from mmguard import Bundle, Settings
from mmguard.bundle.manifest import Manifest
from mmguard.report import Evidence, render
from tests.report.pages import Reader, evidence_of, with_classes

SECTIONS = ("What was calibrated", "Accuracy", "Maximum margins", "Null distribution", "False positives", "Clip sites")
HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """The tiny bundle's: 200 unlabelled inputs, three classes, θ = 0.005."""
    return Bundle.open(tiny_bundle).manifest


def read(manifest: Manifest, evidence: Evidence | None = None) -> Reader:
    return Reader(render(manifest, evidence or evidence_of(manifest)))


def test_the_page_says_what_was_calibrated_and_what_came_of_it(manifest: Manifest) -> None:
    figures = replace(
        manifest.calibration, labelled=True, original_accuracy=0.875, clipped_accuracy=0.8625, agreement=0.98
    )
    page = read(replace(manifest, calibration=figures))
    for section in (*SECTIONS, "What to do next", "Limits"):
        assert section in page.words
    for said in ("ab" * 32, "3: cat, dog, ship", "200 inputs, labelled", "87.5 % → 86.2 %", "against the labels"):
        assert said in page.text
    assert "relu1" in page.words
    assert "1.25\u00a0%" in page.words


def test_the_interval_is_clopper_and_pearsons(manifest: Manifest) -> None:
    p_values = np.linspace(0.01, 1, 200)
    p_values[:3] = 0.005, 0.001, 0.0
    text = read(manifest, evidence_of(manifest, p_values)).text
    low, high = beta.ppf(0.025, 3, 198), beta.ppf(0.975, 4, 197)
    assert f"{low:.2%} to {high:.2%}".replace("%", " %") in text
    assert "3 of 200 clean inputs have p ≤ θ; 1.0 are expected" in text
    assert "θ lies within the interval" in text


@pytest.mark.parametrize(("folds", "held_out"), [(1, False), (5, True)])
def test_the_page_says_whether_the_null_is_held_out(manifest: Manifest, folds: int, held_out: bool) -> None:
    text = read(replace(manifest, settings=Settings(folds=folds))).text
    assert ("held out" in text) == held_out
    assert ("in-sample, so optimistic" in text) != held_out
    assert ("The null is in-sample" in text) != held_out


def test_too_many_flags_on_clean_inputs_are_pointed_out(manifest: Manifest) -> None:
    p_values = np.linspace(0.01, 1, 200)
    p_values[:20] = 1e-4
    page = read(manifest, evidence_of(manifest, p_values))
    assert "θ does not match the calibration set" in page.words
    assert page.count("div", "alarmed") >= 1
    assert page.count("circle", "flagged") == 20


def test_ranks_are_not_counted_among_themselves(manifest: Manifest) -> None:
    assert manifest.null is not None
    scores = tuple(np.sort(np.random.default_rng(0).normal(size=200)).tolist())
    ranked = replace(manifest, null=replace(manifest.null, kind="empirical", n=200, theta=0.02, clean_scores=scores))
    page = read(ranked, evidence_of(ranked))
    low, high = beta.ppf((0.025, 0.975), 4, 197)
    assert "flagged if fewer than 4 of 200 clean inputs score at least as high" in page.text
    assert f"4 of 201 positions {4 / 201:.2%} {low:.2%} to {high:.2%}".replace("%", " %") in page.text
    assert "P-values have a lower limit" in page.words
    assert "Observed on the calibration set" not in page.text
    assert page.count("circle", "flagged") == 4


def test_a_bounded_null_is_flagged_from_where_ranks_allow_it(manifest: Manifest) -> None:
    assert manifest.null is not None
    clean = tuple(np.sort(np.random.default_rng(0).normal(size=99)).tolist())
    bounded = replace(manifest, null=replace(manifest.null, kind="bounded", n=99, clean_scores=clean))
    p_values = bounded.null.fitted().p_values(np.array(clean)) if bounded.null else np.array([])
    page = read(bounded, evidence_of(bounded, p_values))
    assert "0 of 99 clean inputs have p ≤ θ" in page.text
    assert "never below the value that follows from the score's rank in that set" in page.text
    assert "At θ = 0.5 %, an input is therefore flagged only if it scores well above all inputs of" in page.text
    assert page.count("circle", "flagged") == 0


def test_a_bundle_without_a_test_says_so(manifest: Manifest) -> None:
    page = read(replace(manifest, null=None, settings=Settings(objective="mmom")))
    assert "No test" in page.words
    assert "the MMOM objective" in page.text
    assert page.count("svg", "plot") == 0
    assert "θ" not in page.text


def test_an_unlabelled_clean_set_has_no_accuracy_of_its_own(manifest: Manifest) -> None:
    assert not manifest.calibration.labelled
    page = read(manifest)
    assert "The calibration set is unlabelled" in page.words
    assert "Decisions that clipping keeps" in page.words
    assert "100 % →" not in page.text.replace("\u00a0", " "), "the original agrees with itself"
    labelled = replace(manifest, calibration=replace(manifest.calibration, labelled=True))
    assert "The calibration set is unlabelled" not in read(labelled).words


def test_the_audits_verdict_names_the_class(manifest: Manifest) -> None:
    names = tuple(f"class {i}" for i in range(10))
    margins = np.array([9.0, 9.1, 8.9, 9.2, 8.8, 9.0, 9.1, 900.0, 9.0, 8.9])
    page = read(with_classes(manifest, names, margins, margins / 3))
    assert "Backdoored" in page.words
    assert "target class class 7" in page.text
    assert "Do not put this model into service as it is" in page.words
    assert page.count("tr", "suspect") == 1
    even = np.linspace(9, 10, 10)
    assert "No sign of a backdoor" in read(with_classes(manifest, names, even, even / 3)).words


def test_an_audit_that_refuses_gives_its_reason(manifest: Manifest) -> None:
    margins = np.array([3.0, 4.0])
    page = read(with_classes(manifest, ("no", "yes"), margins, margins))
    assert "No verdict" in page.words
    assert "falls only from 4.0 to 4.0" not in page.text
    assert "does not fall (original network: 4.0 logits; clipped network: 4.0 logits)" in page.text


def test_the_twenty_largest_of_a_thousand_classes_are_shown(manifest: Manifest) -> None:
    margins = np.linspace(5, 25, 1000)
    names = tuple(f"class {i}" for i in range(1000))
    source = render(with_classes(manifest, names, margins, margins / 3), evidence_of(manifest))
    page = Reader(source)
    shown = [word for word in page.words if re.fullmatch(r"class \d+", word)]
    assert shown == [f"class {i}" for i in range(999, 979, -1)]
    assert "Not shown: 980 classes" in page.text
    assert f"median of {np.median(margins[:980]):.1f}" in page.text
    assert "1000: class 0, class 1" in page.text
    assert len(source) < 100_000


def test_names_are_text_and_nothing_else(manifest: Manifest) -> None:
    sites = tuple(replace(site, value=f'{site.value}"><img src=x onerror=alert(1)>') for site in manifest.sites)
    hostile = with_classes(manifest, (HOSTILE, "dog\u202egod", "a&b"), np.array([9.0, 8, 7]), np.ones(3))
    hostile = replace(hostile, sites=sites, input=replace(manifest.input, name=HOSTILE), preset=HOSTILE)
    source = render(hostile, evidence_of(hostile))
    page = Reader(source)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.elements)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE in page.words
    assert "dog�god" in page.words
    assert "\u202e" not in source


def test_the_page_loads_nothing(manifest: Manifest) -> None:
    source = render(manifest, evidence_of(manifest))
    assert "default-src 'none'" in source
    assert not re.search(r"https?:|url\(|@import|<script|<link|\sstyle=|\ssrc=|\shref=", source)


def test_equal_arguments_make_equal_pages(manifest: Manifest) -> None:
    first, second = (render(manifest, evidence_of(manifest)) for _ in range(2))
    assert first == second
    assert str(Path.cwd()) not in first


def test_every_plot_and_every_table_says_what_it_is(manifest: Manifest) -> None:
    page = read(manifest)
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) == 2 + len(manifest.classes)
    assert all(plot.get("aria-label") or plot.get("aria-labelledby") for plot in plots)
    assert page.count("h1") == 1
    assert page.count("h2") == len(SECTIONS) + 2
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")


def test_the_page_says_what_the_labels_were_used_for(manifest: Manifest) -> None:
    labelled = replace(manifest, calibration=replace(manifest.calibration, labelled=True))
    assert "the labels were used only to measure accuracy" in read(labelled).text
    filtered = read(replace(labelled, settings=Settings(only_correct=True))).text
    assert "inputs that the model misclassifies were left out" in filtered
    assert "used only to measure accuracy" not in filtered
