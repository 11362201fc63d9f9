"""Flagged inputs are looked at again in the mirror, where the bundle says that mirror images keep their labels."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import softmax

from mmguard import Guard, Policy
from mmguard.bundle.file_names import MANIFEST
from mmguard.errors import InferenceError, SchemaError
from mmguard.guard.second_look import SecondLook, averaged
from mmguard.guard.sessions import NetworkOutput
from mmguard.inputs.spec import Preprocessing
from tests.bundles import add_trigger, clean_inputs

Logits = npt.NDArray[np.float32]


@pytest.fixture
def mirroring(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle, whose flagged inputs are mirrored along the width."""
    bundle = tmp_path / "mirroring.mmguard"
    shutil.copytree(tiny_bundle, bundle)
    set_axis(bundle, 3)
    return bundle


def set_axis(bundle: Path, axis: int) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["mirror_axis"] = axis
    manifest["input"]["preprocessing"] = asdict(Preprocessing())
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_the_average_of_two_sets_of_logits_has_the_mean_of_their_probabilities() -> None:
    a, b = np.random.default_rng(0).normal(0, 5, (2, 7, 4)).astype(np.float32)
    expected = (softmax(a, axis=1) + softmax(b, axis=1)) / 2
    np.testing.assert_allclose(softmax(averaged(a, b), axis=1), expected, atol=1e-6)  # float32
    np.testing.assert_allclose(averaged(a, a), a, atol=1e-5)


def test_only_flagged_rows_are_looked_at_again() -> None:
    clipped = np.array([[3, 0], [3, 0], [3, 0]], np.float32)
    asked = []

    def mirrored(rows: npt.NDArray[np.int64]) -> Logits:
        asked.append(rows.tolist())
        return np.full((len(rows), 2), [0, 9], np.float32)

    look = SecondLook(clipped, mirrored)
    assert look(np.array([], np.int64)) is clipped
    assert look(np.array([1])).argmax(axis=1).tolist() == [0, 1, 0]
    assert look.within(np.array([0, 2]))(np.array([1])).argmax(axis=1).tolist() == [0, 1]
    assert asked == [[1], [2]]
    assert clipped.argmax(axis=1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("found", [None, np.full((1, 2), np.nan, np.float32)])
def test_a_second_look_that_fails_leaves_the_first(found: Logits | None) -> None:
    clipped = np.array([[3, 0]], np.float32)
    np.testing.assert_array_equal(SecondLook(clipped, lambda rows: found)(np.array([0])), clipped)


def test_a_corrected_label_and_its_output_come_from_both_looks(mirroring: Path, tiny_bundle: Path) -> None:
    x = np.concatenate([clean_inputs(3), add_trigger(clean_inputs(5, seed=4))])
    with Guard(tiny_bundle, registry=None) as once, Guard(mirroring, registry=None) as twice:
        plain, found = once.infer(x), twice.infer(x)
        clipped, mirrored = (once.networks.clipped(each).logits for each in (x, np.ascontiguousarray(x[..., ::-1])))
    decision, rows = found.decision, found.decision.corrected
    assert rows.any()
    np.testing.assert_array_equal(decision.flagged, plain.decision.flagged)
    np.testing.assert_array_equal(decision.clipped_labels, plain.decision.clipped_labels)
    mean = (softmax(clipped, axis=1) + softmax(mirrored, axis=1))[rows]
    mean[np.arange(rows.sum()), decision.original_labels[rows]] = -1
    np.testing.assert_array_equal(decision.labels[rows], mean.argmax(axis=1))
    np.testing.assert_array_equal(found.output[rows].argmax(axis=1), decision.labels[rows])
    np.testing.assert_array_equal(found.output[~rows], plain.output[~rows])


def test_a_network_that_fails_on_mirror_images_is_counted_and_its_first_answer_kept(
    mirroring: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = add_trigger(clean_inputs(4))
    with Guard(tiny_bundle, registry=None) as once, Guard(mirroring, registry=None) as twice:
        own, calls = twice.networks.clipped, list[int]()

        def failing(batch: Logits) -> NetworkOutput:
            calls.append(len(batch))
            if len(calls) > 1:
                raise InferenceError("out of memory")
            return own(batch)

        monkeypatch.setattr(twice.networks, "clipped", failing)
        np.testing.assert_array_equal(twice(x).labels, once(x).labels)
        assert len(calls) == 2
        assert twice._metrics._errors["inference"]._value.get() == 1


def test_in_shadow_mode_nothing_is_looked_at_again(mirroring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guard(mirroring, registry=None, policy=Policy(mode="shadow")) as guard:
        own, calls = guard.networks.clipped, list[int]()

        def counted(batch: Logits) -> NetworkOutput:
            calls.append(len(batch))
            return own(batch)

        monkeypatch.setattr(guard.networks, "clipped", counted)
        assert guard(add_trigger(clean_inputs(2))).flagged.any()
        assert calls == [2]


def test_an_axis_other_than_the_width_is_refused(mirroring: Path) -> None:
    set_axis(mirroring, 2)
    with pytest.raises(SchemaError, match="mirror_axis: expected null or the axis of the width of images"):
        Guard(mirroring, registry=None)


def test_a_second_look_is_taken_though_the_guard_is_closed_meanwhile(
    mirroring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.concatenate([clean_inputs(3), add_trigger(clean_inputs(5, seed=4))])
    with Guard(mirroring, registry=None) as guard:
        expected = guard.infer(x)
    guard = Guard(mirroring, registry=None)
    network, seen = guard.networks.clipped, []

    def closes(batch: Logits) -> NetworkOutput:
        seen.append(len(batch))
        output = network(batch)
        guard.close()
        return output

    monkeypatch.setattr(guard.networks, "clipped", closes)
    found = guard.infer(x)
    assert seen == [len(x), int(expected.decision.flagged.sum())], "the second run is that of the mirror images"
    np.testing.assert_array_equal(found.decision.labels, expected.decision.labels)
    np.testing.assert_allclose(found.output, expected.output, rtol=1e-5)
