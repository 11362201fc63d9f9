"""What `mmguard inspect` says of an ONNX file, and what `--sites` then chooses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from mmguard import Bundle
from mmguard.cli.app import DONE, FAILED, WRONG_USE
from mmguard.cli.main import main
from mmguard.errors import CheckpointError, OptionError
from mmguard.pipeline.api import inspect_model
from tests.bundles import Head
from tests.networks import write_clean, write_text, write_tiny
from tests.quick import calibrate

Run = Callable[..., tuple[int, str, str]]

GATED = """
gated (float[n,2,4,4] x) => (float[n,2] scores)
<float[2,2,1,1] w = {1.0, -2.0, 0.5, 1.0}, float[2,2] v = {1.0, -1.0, 0.5, 2.0}>
{
    one = Conv(x, w)
    act = Relu(one)
    squeezed = GlobalAveragePool(act)
    excited = Conv(squeezed, w)
    gate = Sigmoid(excited)
    gated = Mul(act, gate)
    pooled = GlobalAveragePool(gated)
    features = Flatten(pooled)
    logits = Gemm(features, v)
    scores = Softmax(logits)
}
"""


@pytest.fixture
def mmguard(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; returns its exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *capsys.readouterr()

    return run


def test_it_lists_what_would_be_clipped_and_what_not(mmguard: Run, tmp_path: Path) -> None:
    path = write_text(tmp_path, GATED)
    code, out, err = mmguard("inspect", path)
    assert (code, err) == (DONE, "")
    assert out.splitlines() == [
        f"model       {path}: opset 17, 10 nodes",
        "input       x (N, 2, 4, 4) float32",
        "logits      logits",
        "outputs     scores: computed from the logits by Softmax",
        "clip sites  1 activations, 2 bounds",
        "  value  operator  axis  channels",
        "  act    Relu      1     2",
        "unclipped   1 activations",
        "  value  operator  why",
        "  gate   Sigmoid   it is a gate: it multiplies another value",
        "verdict     mmguard can calibrate this model",
    ]


def test_as_json(mmguard: Run, tmp_path: Path) -> None:
    code, out, _ = mmguard("inspect", write_text(tmp_path, GATED), "--json")
    assert code == DONE
    found = json.loads(out)
    assert found["sites"] == [{"value": "act", "operator": "Relu", "axis": 1, "channels": 2, "places": 16}]
    assert found["left_out"][0]["value"] == "gate"
    assert (found["input_shape"], found["logits"]) == ([None, 2, 4, 4], "logits")
    assert found["output"]["head"] == ["Softmax"]
    assert found["obstacles"] == []


def test_a_model_with_nothing_to_clip_cannot_be_calibrated(mmguard: Run, tmp_path: Path) -> None:
    code, out, _ = mmguard("inspect", write_text(tmp_path, GATED.replace("Relu", "Identity")))
    assert code == FAILED
    assert "obstacle    the model has no activation to clip: its operators are Conv, " in out
    assert out.endswith("verdict     mmguard cannot calibrate this model\n")


def test_operators_that_are_not_known_are_listed(mmguard: Run, tmp_path: Path) -> None:
    body = GATED.replace("pooled = GlobalAveragePool(gated)", "odd = Det(gated)\n pooled = GlobalAveragePool(gated)")
    assert mmguard("inspect", write_text(tmp_path, body))[0] == DONE, "the logits do not need it"
    body = GATED.replace("gated = Mul(act, gate)", "odd = Mul(act, gate)\n    gated = BitShiftless(odd)")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>' + body.replace("Bit", "own.Bit")
    )
    onnx.save(model, tmp_path / "own.onnx")
    code, out, _ = mmguard("inspect", tmp_path / "own.onnx")
    assert code == FAILED
    assert "operator own.BitShiftless (node '-> gated')" in out


def test_what_is_no_classifier_is_refused(mmguard: Run, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"noise")
    for path, message in (
        (tmp_path / "model.onnx", "not a valid ONNX model"),
        (tmp_path / "none.onnx", "no such file"),
    ):
        code, out, err = mmguard("inspect", path)
        assert (code, out) == (FAILED, "")
        assert message in err


def test_the_list_is_what_calibration_clips(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx", Head.SOFTMAX)
    found = inspect_model(model)
    manifest = Bundle.open(calibrate(tmp_path, model)).manifest
    assert [(each.value, each.axis, each.channels) for each in found.sites] == [
        (each.value, each.axis, each.channels) for each in manifest.sites
    ]
    assert not found.obstacles


@pytest.mark.parametrize(("chosen", "values"), [("last", ["relu2"]), ("relu1", ["relu1"]), ("Re*", ["relu1", "relu2"])])
def test_calibration_clips_what_is_chosen(tmp_path: Path, chosen: str, values: list[str]) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    out = calibrate(tmp_path, model, sites=chosen)
    assert [site.value for site in Bundle.open(out).manifest.sites] == values
    minima = [node for node in onnx.load(out / "clipped.onnx").graph.node if node.op_type == "Min"]
    assert [node.input[0] for node in minima] == values


def test_a_pattern_that_fits_nothing_is_wrong_use(mmguard: Run, tmp_path: Path) -> None:
    model, clean = write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "clean.npz")
    code, out, err = mmguard("calibrate", model, clean, "--out", tmp_path / "out.mmguard", "--sites", "layer4*")
    assert (code, out) == (WRONG_USE, "")
    message = "the sites pattern 'layer4*' matches no clip site; use all, last, or patterns that match one of: "
    assert message + "relu1 (Relu), relu2 (Relu)" in err
    with pytest.raises(OptionError):
        calibrate(tmp_path, model, clean, sites="layer4*")


def test_a_checkpoint_of_other_sites_is_refused(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")

    def stop(report: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(tmp_path, model, on_round=stop)
    with pytest.raises(CheckpointError, match="clip sites"):
        calibrate(tmp_path, model, sites="last", resume=True)
