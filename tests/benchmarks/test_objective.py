"""Eq. 4 by an independent search, on the tiny network."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import objective
from benchmarks.cells import Bed
from benchmarks.objective import Judge
from benchmarks.suspect import CleanSet, Suspect
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.sites import find_activations

Arrays = dict[str, NDArray[np.float32]]


class Held:
    """A bundle of which only the bounds are read: one number for all channels."""

    def __init__(self, suspect: Suspect, bound: float) -> None:
        classifier = read_classifier(suspect.path)
        sites = find_activations(classifier.model, classifier.output.logits)
        self.fitted: Arrays = {each.value: np.full((1, 1, 1), bound, np.float32) for each in sites}

    def bounds(self) -> Arrays:
        return self.fitted


def test_lower_bounds_change_the_logits_more_and_leave_smaller_margins(
    suspect: Suspect, clean: CleanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: replace(settings, maximisers=2) for name, settings in objective.SEARCHES.items()}
    monkeypatch.setattr(objective, "SEARCHES", few)
    monkeypatch.setattr(objective, "STEPS", 3)
    judge = Judge(Bed(suspect, clean, clean.x, clean.y))
    none, low = (judge(Held(suspect, bound)) for bound in (1e6, 0.3))  # type: ignore[arg-type]
    assert none["fit"] == 0 < low["fit"]
    assert low["margin"] < none["margin"]
    assert none["margin"] >= max(none["margin_by_search"].values()) - 1e-6
    assert none["objective"] == pytest.approx(0.1 * none["margin"])
