"""Every statistic is measured alone and left out, by the test itself."""

import numpy as np

from benchmarks.ablation import figures, subsets_of
from mmguard.bundle.manifest import CriterionSpec, NullSpec
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion


def readings(n: int, seed: int, shift: float = 0.0) -> Readings:
    generator = np.random.default_rng(seed)
    original = generator.normal(size=(n, 3)) + 6 * np.eye(3)[generator.integers(0, 3, n)]
    return Readings(original, 0.9 * original, np.exp(generator.normal(shift, 1, (n, 3))))


def test_each_statistic_is_alone_once_and_left_out_once() -> None:
    subsets = subsets_of(["a", "b"])
    assert subsets == {"all": ["a", "b"], "only a": ["a"], "only b": ["b"], "without a": ["b"], "without b": ["a"]}


def test_only_evidence_that_sees_a_trigger_catches_it() -> None:
    clean = readings(2000, 0)
    names = ("activation_distance", "activation_excess", "original_margin")
    criteria = tuple(CriterionSpec.of(name, Criterion.fit(name, clean, None)[0]) for name in names)
    null = NullSpec("gaussian", 2000, 0.005, 0.005, criteria, ())
    unseen, triggered = readings(4000, 1), readings(500, 2, shift=8.0)
    found = {name: figures(null, [name], unseen, triggered) for name in names}
    for name in names[:2]:
        assert found[name]["true_positive_rate"] > 0.99
        assert found[name]["auroc"] > 0.999
    assert found["original_margin"]["true_positive_rate"] < 0.05
    assert abs(found["original_margin"]["auroc"] - 0.5) < 0.05
    assert figures(null, list(names), unseen, None).keys() == {"false_positive_rate"}
