"""Which activations a calibration reads, and what it does where there are none to read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard import Bundle, Guard
from mmguard.bundle.manifest import ACTIVATIONS
from mmguard.exporter.equality import run
from mmguard.exporter.evidence import choose, pool
from mmguard.guard.verify import verify_bundle
from mmguard.pipeline import activations, calibration
from mmguard.runtime.session import ORT_NOT_IMPLEMENTED
from tests.bundles import clean_inputs
from tests.networks import write_tiny
from tests.quick import QUICK, QUICK_MMOM, calibrate


def test_a_bundle_has_the_evidence_of_the_chosen_sites(tmp_path: Path) -> None:
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    manifest = Bundle.open(path).manifest
    assert [(site.value, site.feature) for site in manifest.evidence] == [("relu2", "mean"), ("relu2", "root")]
    assert manifest.runtime_graphs["original"] == "runtime/original.onnx"
    assert manifest.runtime_graphs["clipped"] == "clipped.onnx"
    read = run(path / "runtime/original.onnx", clean_inputs(120), ACTIVATIONS)
    assert read.shape == (120, 3)
    distances, excess = read[:, :2], read[:, 2]
    # with a divisor of n and one covariance for all classes, the mean squared distance of D itself is the trace of
    # (½ I + ½ R)⁻¹ R, which is between half of and twice the number of channels that are not silent
    assert (distances.mean(axis=0) <= 2 * 6).all()
    assert (distances.mean(axis=0) >= 1).all()
    # half of a channel's clean inputs are within one median absolute deviation, so few are outside of three
    assert np.median(excess) < 1
    assert excess.min() >= 0
    with Guard(path, registry=None) as guard:
        found = guard.networks.original(clean_inputs(120)).activations
    assert found is not None
    np.testing.assert_allclose(found, read, rtol=1e-4)  # float32, on other threads
    assert verify_bundle(path) < 1e-5


def test_statistics_that_read_no_activations_leave_the_network_as_it_is(tmp_path: Path) -> None:
    settings = replace(QUICK, statistics=("residual_margin_gap", "original_margin"))
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), settings=settings)
    bundle = Bundle.open(path)
    assert bundle.manifest.evidence == ()
    assert bundle.manifest.runtime_graphs["original"] == "original.onnx"
    assert bundle.probes().activations is None
    assert not (path / "runtime").exists()


def test_a_corrected_model_reads_no_activations(tmp_path: Path) -> None:
    clean = tmp_path / "labelled.npz"
    x = clean_inputs(120)
    np.savez(clean, x=x, y=run(write_tiny(tmp_path / "tiny.onnx"), x, "logits").argmax(axis=1))
    path = calibrate(tmp_path, tmp_path / "tiny.onnx", clean, settings=QUICK_MMOM)
    assert Bundle.open(path).manifest.evidence == ()
    assert not (path / "runtime").exists()


def test_without_a_usable_site_the_test_reads_the_logits_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose, "MAX_CHANNELS", 3)  # the sites have 4 and 6 channels
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    null = Bundle.open(path).manifest.null
    assert null is not None
    assert [each.statistic for each in null.criteria] == ["residual_margin_gap", "residual_norm", "original_margin"]
    assert "no clip site has one row of activations for each input" in caplog.text
    assert Bundle.open(path).manifest.evidence == ()


def test_a_model_that_onnx_runtime_cannot_pool_is_tested_without_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise ORT_NOT_IMPLEMENTED("GlobalAveragePool has no kernel")

    monkeypatch.setattr(pool, "run_session", fails)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    assert Bundle.open(path).manifest.evidence == ()
    assert "ONNX Runtime cannot pool this model's activations: GlobalAveragePool has no kernel" in caplog.text


def test_a_quantised_model_is_tested_without_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(activations, "QUANTISERS", {"Relu"})  # the operators by which a quantised model is recognised
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    assert Bundle.open(path).manifest.evidence == ()
    assert "reading them would slow down a quantised model" in caplog.text


def test_decisions_on_near_ties_are_those_of_the_runtime_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch decides otherwise, activations are still compared with the class that the graph decides on."""
    own = activations.observe_activations

    def decided_otherwise(prepared: Any, parts: Any) -> Any:
        return own(replace(prepared, original_logits=-prepared.original_logits), parts)

    monkeypatch.setattr(calibration, "observe_activations", decided_otherwise)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))  # compares what the graph returns with this
    assert len(Bundle.open(path).manifest.evidence) == 2
