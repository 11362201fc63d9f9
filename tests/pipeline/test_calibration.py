"""From a model and a clean set to a bundle that guards."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from prometheus_client import CollectorRegistry

import mmguard
from mmguard import Bundle, Guard, Policy
from mmguard.bundle.file_names import PROVENANCE
from mmguard.bundle.manifest import ACTIVATIONS
from mmguard.demo import digits
from mmguard.errors import CleanSetError, GraphMismatchError, InputError, OptionError
from mmguard.exporter.equality import run
from mmguard.guard.scan import scan, summarise
from mmguard.guard.verify import verify_bundle
from mmguard.inputs.preprocessing import PreprocessingOptions
from mmguard.inputs.spec import Preprocessing
from mmguard.settings import Settings, preset
from tests.bundles import OUTPUT, TARGET, Array, Head, add_trigger, clean_inputs, output_spec, run_model, tiny_network
from tests.guard.wrapping.endings import rows_of_the_original
from tests.networks import write_class_folders, write_clean, write_tiny
from tests.quick import QUICK, QUICK_MMOM, calibrate, files

CLASSES = ("cat", "dog", "ship")


@pytest.fixture(scope="module")
def digit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, digits.Split]]:
    """A bundle of a backdoored digit classifier, and its test images."""
    folder = tmp_path_factory.mktemp("digits")
    train, clean, test = digits.load(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "EPOCHS", 8)
        digits.export(digits.train_network(digits.poison(train, 0), 0), folder / "digits.onnx")
        names = [f"{label}/{i:03}" for i, label in enumerate(clean.y)]
        digits.write_images(folder / "clean", clean.x, names)
        yield calibrate(folder, folder / "digits.onnx", folder / "clean"), test


def test_digits_end_to_end(digit_bundle: tuple[Path, digits.Split]) -> None:
    path, test = digit_bundle
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    assert (manifest.name, manifest.classes, manifest.preset) == ("digits", tuple("0123456789"), "custom")
    assert manifest.input.preprocessing == Preprocessing(mode="L")
    assert (manifest.calibration.n, manifest.calibration.labelled) == (500, True)
    assert manifest.calibration.original_accuracy > 0.9
    assert [site.operator for site in manifest.sites] == ["Relu"] * 4
    assert (path / "original.onnx").read_bytes() == (path.parent / "digits.onnx").read_bytes()
    for site in manifest.sites:
        bound = bundle.bounds()[site.value]
        assert bound.shape == (site.channels, 1, 1)
        assert bound.min() >= 0
    plain = (test.x[:, None] / 255).astype(np.float32)
    triggered = (digits.trigger(test.x[test.y != digits.TARGET])[:, None] / 255).astype(np.float32)
    with Guard(bundle, registry=None, threads=1) as guard:
        assert (guard(triggered).original_labels == digits.TARGET).mean() > 0.8, "the backdoor works"
        assert guard(plain).flagged.mean() < 0.05
        assert guard(triggered).flagged.mean() > 5 * guard(plain).flagged.mean()
        np.testing.assert_array_equal(
            guard(plain).original_labels[:3], run(path / "original.onnx", plain[:3], "logits").argmax(1)
        )


def test_the_clipped_network_runs_alone_in_onnx_runtime(digit_bundle: tuple[Path, digits.Split]) -> None:
    path, _ = digit_bundle
    code = f"""
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(path / "clipped.onnx")!r}, providers=["CPUExecutionProvider"])
(scores,) = session.run(None, {{"image": numpy.zeros((3, 1, 16, 16), numpy.float32)}})
assert not {{"mmguard", "torch", "onnx"}} & set(sys.modules)
print(scores.shape, bool(numpy.isfinite(scores).all()))
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "(3, 10) True\n"


@pytest.mark.parametrize("head", list(Head))
def test_every_tail_is_guarded_in_what_the_model_itself_returns(tmp_path: Path, head: Head) -> None:
    model = write_tiny(tmp_path / "tiny.onnx", head)
    path = calibrate(tmp_path, model, rounds=10)
    assert Bundle.open(path).manifest.output == output_spec(head)
    plain, triggered = clean_inputs(40, seed=8), add_trigger(clean_inputs(40, seed=8))
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    decisions: list[mmguard.Decision] = []
    safe = mmguard.wrap(session, path, registry=None, on_decision=decisions.append)
    for x in (plain, triggered):
        (scores,) = safe.run(None, {"image": x})
        (own,) = session.run([OUTPUT[head]], {"image": x})
        flagged = decisions[-1].flagged
        np.testing.assert_array_equal(scores[~flagged], own[~flagged])
        np.testing.assert_array_equal(scores.argmax(axis=1), decisions[-1].labels)
        if head is Head.SOFTMAX:
            np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        if head is Head.LOG_SOFTMAX:
            np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-4)
    assert (decisions[1].original_labels == TARGET).all()
    assert (decisions[1].flagged & (decisions[1].labels != TARGET)).all()
    assert decisions[0].flagged.mean() < 0.2
    with Guard(path, policy=Policy(on_flag="abstain"), registry=None) as guard:
        assert np.isnan(guard.infer(triggered).output).all()


DEFAULT, LOGITS_ALONE = preset(), replace(preset(), statistics=("residual_margin_gap", "residual_norm"))
WITH_ACTIVATIONS = ["supported_margin_gap", "centred_residual_norm", "activation_distance", "original_margin"]
"""The excess is 0 for many inputs of the tiny network, which has few channels."""
WITHOUT = ["residual_margin_gap", "centred_residual_norm"]


@pytest.mark.parametrize(
    ("kind", "head", "settings", "statistics"),
    [
        ("session", Head.SOFTMAX, DEFAULT, WITH_ACTIVATIONS),
        ("callable", Head.LOG_SOFTMAX, DEFAULT, WITH_ACTIVATIONS),
        ("session", Head.LOG_SOFTMAX, LOGITS_ALONE, WITHOUT),
        ("callable", Head.SOFTMAX, LOGITS_ALONE, WITHOUT),
    ],
    ids=["session", "callable", "session without activations", "callable without activations"],
)
def test_a_calibrated_model_that_ends_in_probabilities_runs_once_when_wrapped(
    tmp_path: Path, kind: str, head: Head, settings: Settings, statistics: list[str]
) -> None:
    """The statistics of its logits need no more than its probabilities; those of activations need the original too."""
    model = write_tiny(tmp_path / "tiny.onnx", head)
    path = calibrate(tmp_path, model, rounds=10, settings=settings)
    null = Bundle.open(path).manifest.null
    assert null is not None
    assert [criterion.statistic for criterion in null.criteria] == statistics
    x = np.concatenate([clean_inputs(40, seed=8), add_trigger(clean_inputs(40, seed=8))])
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    decisions: list[mmguard.Decision] = []
    predictor = session if kind == "session" else lambda given: session.run(None, {"image": given})[0]
    safe = mmguard.wrap(predictor, path, registry=None, on_decision=decisions.append)
    with Guard(path, registry=None) as guard:
        expected = guard(x)
    rows = rows_of_the_original(safe)
    answer = safe.run(None, {"image": x})[0] if kind == "session" else safe(x)
    assert rows == ([len(x)] if "activation_distance" in statistics else [])
    assert expected.flagged.any()
    np.testing.assert_array_equal(decisions[0].flagged, expected.flagged)
    np.testing.assert_array_equal(decisions[0].labels, expected.labels)
    np.testing.assert_allclose(decisions[0].p_values, expected.p_values, rtol=0.05, atol=1e-9)
    np.testing.assert_array_equal(answer.argmax(axis=1), expected.labels)


def test_external_weights_travel_with_the_bundle(tmp_path: Path) -> None:
    model = tmp_path / "own" / "tiny.onnx"
    model.parent.mkdir()
    onnx.save(tiny_network().model(), model, save_as_external_data=True, location="tiny.weights", size_threshold=0)
    path = calibrate(tmp_path, model)
    assert (path / "tiny.weights").read_bytes() == (model.parent / "tiny.weights").read_bytes()
    assert (path / "original.onnx").read_bytes() == model.read_bytes()
    for file in model.parent.iterdir():
        file.unlink()
    assert {"tiny.weights", "report.html"} <= set(Bundle.open(path).manifest.files)
    assert verify_bundle(path) < 1e-5


@pytest.mark.parametrize("folds", [1, 2])
def test_two_equal_calibrations_write_the_same_bytes(tmp_path: Path, folds: int) -> None:
    settings = replace(QUICK, folds=folds)
    model = write_tiny(tmp_path / "tiny.onnx", Head.SOFTMAX)
    contents = [
        files(calibrate(tmp_path, model, out=tmp_path / name, seed=seed, settings=settings))
        for name, seed in zip("abc", (5, 5, 6), strict=True)
    ]
    for content in contents:
        del content[PROVENANCE]
    assert contents[0] == contents[1]
    assert contents[0]["bounds.safetensors"] != contents[2]["bounds.safetensors"]


def test_an_interrupted_calibration_leaves_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    model = write_tiny(tmp_path / "tiny.onnx")
    clean = write_clean(tmp_path / "clean.npz")
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        calibrate(tmp_path, model, clean, on_round=interrupt)
    assert files(tmp_path).items() >= before.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mmguard.checkpoint", "clean.npz", "tiny.onnx"]


def test_a_failed_export_leaves_nothing_and_the_older_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> float:
        raise GraphMismatchError("differs")

    model = write_tiny(tmp_path / "tiny.onnx")
    path = calibrate(tmp_path, model)
    before = files(tmp_path)
    monkeypatch.setattr("mmguard.pipeline.write_bundle.check_export", refuse)
    with pytest.raises(GraphMismatchError, match="differs"):
        calibrate(tmp_path, model, seed=1)
    assert files(tmp_path) == before
    assert Bundle.open(path).manifest.seed == 0


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx", Head.SOFTMAX)
    path = calibrate(tmp_path, model)
    assert (path / "runtime/head.onnx").is_file()
    assert calibrate(tmp_path, write_tiny(tmp_path / "other.onnx"), seed=1) == path
    assert Bundle.open(path).manifest.name == "other"
    assert not (path / "runtime/head.onnx").exists(), "nothing of the older bundle stays"


@pytest.mark.parametrize(
    ("stem", "name"), [("my model (v2)", "my-model--v2-"), ("a+b", "a-b"), ("resnet.20", "resnet.20")]
)
def test_odd_characters_of_a_file_name_do_not_reach_the_bundles_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = calibrate(tmp_path, write_tiny(tmp_path / "models" / f"{stem}.onnx"), out=None)
    assert path == Path(f"{stem}.mmguard")
    assert Bundle.open(path).manifest.name == name


def test_class_folders_of_images_make_a_bundle_that_scans_images(tmp_path: Path) -> None:
    clean = write_class_folders(tmp_path / "clean", CLASSES)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), clean)
    manifest = Bundle.open(path).manifest
    assert manifest.classes == CLASSES
    assert manifest.calibration.original_accuracy == 1.0
    with Guard(path, registry=None) as guard:
        rows = list(scan(guard, clean))
    assert len(rows) == 120
    assert all(row["input"].startswith(CLASSES[row["original_label"]]) for row in rows)


def test_a_bundle_of_arrays_takes_its_box_from_them_and_refuses_images(tmp_path: Path) -> None:
    x = clean_inputs(120)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    spec = Bundle.open(path).manifest.input
    np.testing.assert_array_equal(spec.low, x.min(axis=(0, 2, 3))[:, None, None])
    np.testing.assert_array_equal(spec.high, x.max(axis=(0, 2, 3))[:, None, None])
    folder = write_class_folders(tmp_path / "suspect", CLASSES, n=4)
    with Guard(path, registry=None) as guard, pytest.raises(InputError, match=r"not calibrated on images.*image file"):
        list(scan(guard, folder))


def test_arrays_with_preprocessing_take_the_box_of_pixels(tmp_path: Path) -> None:
    preprocessing = PreprocessingOptions(mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25)).preprocessing()
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), preprocessing=preprocessing)
    spec = Bundle.open(path).manifest.input
    np.testing.assert_allclose(spec.low.ravel(), (-2, -1.6, -1.2), rtol=1e-6)
    np.testing.assert_allclose(spec.high.ravel(), (2, 2.4, 2.8), rtol=1e-6)


def test_what_the_bundle_holds_is_what_the_networks_give(tmp_path: Path) -> None:
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    bundle = Bundle.open(path)
    probes, bounds = bundle.probes(), bundle.bounds()
    network: dict[str, Array] = {
        "original": run_model(tiny_network().model(), probes.x),
        "clipped": run_model(tiny_network().model(bounds), probes.x),
    }
    for form, logits in network.items():
        np.testing.assert_allclose(getattr(probes, form), logits, rtol=1e-4, atol=1e-4)
    assert probes.activations is not None
    activations = run(path / "runtime/original.onnx", probes.x, ACTIVATIONS)
    np.testing.assert_allclose(probes.activations, activations, rtol=1e-4)  # float32, in one batch
    assert probes.x.min() >= bundle.manifest.input.low.min()
    assert set(bundle.provenance()) == {"started", "seconds", "device", "platform", "machine"}


def test_the_report_counts_the_clean_inputs_that_the_guard_flags(tmp_path: Path) -> None:
    settings = replace(QUICK, folds=1)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), settings=settings, theta=0.2)
    with Guard(path, policy=Policy(screen=0), registry=None) as guard:
        count = int((guard(clean_inputs(120)).p_values <= 0.2).sum())
    text = Bundle.open(path).report().read_text(encoding="utf-8")
    assert 0 < count < 120
    assert f"{count} of 120\u00a0clean inputs have p ≤ θ; 24.0 are expected" in text


def test_a_preset_may_leave_out_what_the_model_decides_wrongly(tmp_path: Path) -> None:
    right_only = replace(QUICK, only_correct=True)
    x = clean_inputs(60)
    right = run_model(tiny_network().model(), x).argmax(axis=1)
    wrong = np.where(np.arange(60) < 7, (right + 1) % 3, right)
    np.savez(tmp_path / "labelled.npz", x=x, y=wrong)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    model = write_tiny(tmp_path / "tiny.onnx")
    for name, settings, n in (("labelled", right_only, 53), ("labelled", QUICK, 60), ("unlabelled", right_only, 60)):
        manifest = Bundle.open(calibrate(tmp_path, model, tmp_path / f"{name}.npz", settings=settings)).manifest
        assert manifest.null is not None
        assert manifest.calibration.n == manifest.null.n == n


@pytest.mark.parametrize("head", [Head.NONE, Head.SOFTMAX])
def test_mmom_makes_a_corrected_model_that_answers_and_flags_nothing(tmp_path: Path, head: Head) -> None:
    clean = write_clean(tmp_path / "clean.npz", labels=True)
    model = write_tiny(tmp_path / "tiny.onnx", head=head)
    path = calibrate(tmp_path, model, clean, settings=QUICK_MMOM, rounds=8)
    manifest = Bundle.open(path).manifest
    assert manifest.null is None
    assert manifest.settings.objective == "mmom"
    assert manifest.calibration.flagged_share == 0
    assert "This bundle has no null distribution" in Bundle.open(path).report().read_text(encoding="utf-8")
    x = add_trigger(clean_inputs(40, seed=5))
    registry = CollectorRegistry()
    with Guard(path, registry=registry) as guard:
        judged = guard.infer(x)
        answer = run(path / "clipped.onnx", x, manifest.output.names[0])
    np.testing.assert_array_equal(judged.output, answer)
    np.testing.assert_array_equal(judged.decision.labels, answer.argmax(axis=1))
    assert not judged.decision.flagged.any()
    assert np.isnan(judged.decision.p_values).all()
    assert registry.get_sample_value("mmguard_inputs_total", {"model": manifest.name}) == 40
    assert registry.get_sample_value("mmguard_p_value_count", {"model": manifest.name}) == 0
    np.save(tmp_path / "x.npy", x)
    with Guard(path, registry=None, policy=Policy(mode="shadow")) as guard:
        rows = list(scan(guard, tmp_path / "x.npy"))
        assert not summarise(guard, rows).alarming
        assert {row["p_value"] for row in rows} == {row["margin_gap"] for row in rows} == {None}
        shadow = guard.infer(x)
    np.testing.assert_array_equal(shadow.output, run(path / "original.onnx", x, manifest.output.names[0]))
    np.testing.assert_array_equal(shadow.decision.labels, shadow.decision.original_labels)
    assert verify_bundle(path) < 1e-4


def test_an_empirical_null_ranks_an_input_among_the_clean_ones(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    message = "smallest empirical p-value that 120 clean inputs can produce; provide at least 199"
    with pytest.raises(OptionError, match=message):
        calibrate(tmp_path, model, null="empirical")
    path = calibrate(tmp_path, model, null="empirical", theta=0.05)
    with Guard(path, policy=Policy(screen=0), registry=None) as guard:
        ranks = 121 * guard(clean_inputs(60, seed=5)).p_values
        triggered = guard(add_trigger(clean_inputs(60, seed=5)))
    np.testing.assert_allclose(ranks, np.round(ranks), atol=1e-9)
    assert ranks.max() > 60
    assert triggered.flagged.all()


def test_mmom_has_no_level(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.npz", labels=True)
    with pytest.raises(OptionError, match="without a test"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), clean, settings=QUICK_MMOM, theta=0.01)


@pytest.mark.parametrize("name", ["default", "paper", "reference"])
def test_a_scan_alarms_by_p_values_whatever_else_is_flagged(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "clean.npz", x=clean_inputs(400))
    settings = preset(name, rounds=8)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), tmp_path / "clean.npz", settings=settings)
    for triggered in (False, True):
        x = clean_inputs(60, seed=5)
        np.save(tmp_path / "x.npy", add_trigger(x) if triggered else x)
        with Guard(path, registry=None) as guard:
            assert summarise(guard, list(scan(guard, tmp_path / "x.npy"))).alarming == triggered


def test_mmom_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CleanSetError, match="labels"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), settings=QUICK_MMOM)
    assert not (tmp_path / "out.mmguard").exists()


def test_a_preset_with_an_unknown_objective_or_a_negative_weight_is_refused() -> None:
    for options in ({"objective": "max"}, {"margin_weight": -1.0}, {"margin_weight": np.inf}):
        with pytest.raises(OptionError, match=r"objective|margin_weight"):
            preset(**options)
