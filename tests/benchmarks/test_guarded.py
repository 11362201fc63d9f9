"""mmguard's own rows of the tables, by the public command, on a tiny network and for two rounds only."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scipy.stats import norm

from benchmarks import cifar, defences, detectors, guarded
from benchmarks.defences import DEFENCES
from benchmarks.defences.clipping import Mmac, Mmdf
from benchmarks.detectors import DETECTORS
from benchmarks.detectors.mmdf import Mmdf as MmdfDetector
from benchmarks.guarded import bundle_of
from benchmarks.suspect import CleanSet, Suspect
from mmguard import Bundle, Guard


@pytest.fixture(scope="module")
def bundle(suspect: Suspect, clean: CleanSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "CACHE", tmp_path_factory.mktemp("cache"))
        yield bundle_of(suspect, clean, "default", 2, 0)


@pytest.fixture(autouse=True)
def _calibrated_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept bundle serves every test here; a test that calibrates again fails."""
    monkeypatch.setattr(guarded, "calibrate", lambda *_: pytest.fail("calibrated again"))


def test_a_kept_bundle_is_taken_for_the_same_network_and_settings(
    bundle: Bundle, suspect: Suspect, clean: CleanSet
) -> None:
    assert bundle_of(suspect, clean, "default", 2, 0).path == bundle.path
    others: list[tuple[CleanSet, int, int]] = [
        (clean, 3, 0),
        (clean, 2, 1),
        (CleanSet(clean.x[10:], clean.y[10:]), 2, 0),
    ]
    for other, rounds, seed in others:
        with pytest.raises(pytest.fail.Exception, match="calibrated again"):
            bundle_of(suspect, other, "default", rounds, seed)


def test_the_guard_sees_the_network_s_own_inputs(bundle: Bundle, suspect: Suspect, clean: CleanSet) -> None:
    with Guard(bundle, registry=None) as guard:
        decision = guarded.decide(guard, clean.x)
        (batch,) = guarded.inputs(guard, clean.x)
    assert np.array_equal(decision.original_labels, suspect.exported.labels(clean.x))
    assert np.allclose(batch, suspect.exported.inputs(clean.x), atol=1e-5)


def test_mmac_is_the_clipped_network(bundle: Bundle, suspect: Suspect, clean: CleanSet) -> None:
    mitigated = Mmac(rounds=2).mitigate(suspect, clean, 0)
    session = onnxruntime.InferenceSession(bundle.path / "clipped.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"image": suspect.exported.inputs(clean.x)})[0].argmax(axis=1)
    assert np.array_equal(mitigated.labels(clean.x), expected)
    assert mitigated.notes["rounds"] == 2


def test_mmdf_answers_and_flags_as_the_guard_does(bundle: Bundle, suspect: Suspect, clean: CleanSet) -> None:
    triggered = suspect.attack.trigger(clean.x)
    with Guard(bundle, registry=None) as guard:
        decision = guarded.decide(guard, triggered)
    judge = MmdfDetector(rounds=2).fit(suspect, clean, 0)
    verdicts = judge.verdicts(triggered)
    assert np.array_equal(Mmdf(rounds=2).mitigate(suspect, clean, 0).labels(triggered), decision.labels)
    assert np.array_equal(verdicts.flagged, decision.flagged)
    np.testing.assert_allclose(norm.sf(verdicts.scores), decision.p_values, rtol=1e-6, atol=1e-300)
    assert judge.notes["calibration_seconds"] == bundle.provenance()["seconds"] > 0


def test_the_clean_set_is_written_as_a_user_has_it(clean: CleanSet, tmp_path: Path) -> None:
    guarded.write_clean(tmp_path, clean)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [str(label) for label in range(10)]
    assert len(list(tmp_path.rglob("*.png"))) == len(clean.y)


def test_rows_of_other_presets_calibrate_by_these() -> None:
    rows: list[Mmac | MmdfDetector] = [
        row
        for registry, names in ((DEFENCES, defences.ON_REQUEST), (DETECTORS, detectors.ON_REQUEST))
        for name in sorted(names)
        if isinstance(row := registry[name](), Mmac | MmdfDetector) and row.preset == name.split()[-1]
    ]
    assert [row.preset for row in rows] == ["paper", "reference"] * 3
