"""What the page says of the screen."""

from dataclasses import replace

import pytest

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import Manifest
from mmguard.report.sections.false_positives import false_positives
from mmguard.report.sections.limits import own_limits
from tests.guard.wrapping.endings import write_evidence_bundle
from tests.report.pages import evidence_of


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle.open(write_evidence_bundle(tmp_path_factory.mktemp("limits") / "b")).manifest


def titles(manifest: Manifest) -> list[str]:
    rate = false_positives(manifest, evidence_of(manifest))
    return [limit.title for limit in own_limits(manifest, None, rate)]


def test_a_screen_is_named_as_not_measured_on_this_model(manifest: Manifest) -> None:
    assert "The screen was not measured on this model" in titles(manifest)
    assert "No screen" not in titles(manifest)


@pytest.mark.parametrize(("n", "known"), [(29, False), (30, True)])
def test_a_screen_that_knows_too_few_inputs_of_a_class_is_named(manifest: Manifest, n: int, known: bool) -> None:
    few = replace(manifest, calibration=replace(manifest.calibration, n=n))
    assert ("The screen hardly knows some classes" in titles(few)) == (not known), "10 for each of 3 classes"


def test_a_bundle_without_a_screen_says_so(manifest: Manifest) -> None:
    assert manifest.null is not None
    alone = tuple(each for each in manifest.null.criteria if not each.statistic.startswith("activation"))
    for null in (replace(manifest.null, criteria=alone), replace(manifest.null, disagreement_theta=1.0)):
        assert "No screen" in titles(replace(manifest, null=null))
