import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.file_names import BOUNDS, PROBES
from mmguard.bundle.tensors import write_tensors
from mmguard.errors import GraphMismatchError, InferenceError, OptionError, TamperedBundleError
from mmguard.guard import Guard
from mmguard.guard.verify import verify_bundle
from tests.bundles import Head, tiny_bounds, tiny_network, write_tiny_bundle
from tests.stub_graphs import StubGraph, external, put


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.mmguard"))


@pytest.fixture
def softmax(tmp_path: Path) -> Path:
    """A bundle whose runtime_graphs have a head."""
    return write_tiny_bundle(tmp_path / "softmax.mmguard", head=Head.SOFTMAX)


def verify(bundle: Path) -> float:
    return verify_bundle(bundle)


@pytest.mark.parametrize("head", list(Head))
def test_an_untouched_bundle_passes(tmp_path: Path, head: Head) -> None:
    assert verify(write_tiny_bundle(tmp_path / "tiny.mmguard", head=head)) < 1e-5


def test_a_path_and_an_open_bundle_are_verified_alike(tiny_bundle: Path) -> None:
    expected = verify_bundle(tiny_bundle)
    for bundle in (str(tiny_bundle), Bundle.open(tiny_bundle)):
        assert verify_bundle(bundle, device="cpu") == expected


def test_an_unknown_device_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="device must be one of cpu, cuda, got 'tpu'"):
        verify_bundle(tiny_bundle, "tpu")


@pytest.mark.parametrize("form", ["original", "clipped"])
@pytest.mark.parametrize(
    ("plan", "refusal"),
    [
        (StubGraph(inputs=("picture",)), "unexpected inputs: expected only 'image', got 'picture'"),
        (StubGraph(inputs=("image", "mask")), "unexpected inputs: expected only 'image', got 'image', 'mask'"),
        (StubGraph(dtype="float16"), "an input 'image' of type tensor\\(float16\\), not float32"),
        (StubGraph(dtype="int64"), "an input 'image' of type tensor\\(int64\\), not float32"),
        (StubGraph(shape=("N", 3, 8)), "'image' of shape .* not \\(None, 3, 8, 8\\)"),
        (StubGraph(shape=("N", 3, 8, 9)), "'image' of shape .* not \\(None, 3, 8, 8\\)"),
        (StubGraph(outputs=("scores",)), r"no output 'logits' \(its outputs: 'scores'\)"),
        (StubGraph(out="float64"), "logits 'logits' of type tensor\\(double\\), not tensor\\(float\\)"),
        (StubGraph(width=4), "'logits' of shape .* not \\(None, 3\\)"),
        (StubGraph(width=2), "'logits' of shape .* not \\(None, 3\\)"),
        (StubGraph(axes=1), "'logits' of shape .* not \\(None, 3\\)"),
        (StubGraph(axes=3), "'logits' of shape .* not \\(None, 3\\)"),
    ],
)
def test_a_network_that_is_not_the_manifest_s_is_refused_before_the_first_request(
    bundle: Path, form: str, plan: StubGraph, refusal: str
) -> None:
    put(bundle, {f"{form}.onnx": plan.bytes()})
    with pytest.raises(
        TamperedBundleError, match=rf"runtime_graphs\.{form} of the bundle does not match its manifest: .* {refusal}"
    ):
        Guard(bundle, registry=None)


def test_logits_of_a_width_that_a_session_does_not_tell_are_refused_when_they_come(bundle: Path) -> None:
    put(bundle, {"clipped.onnx": StubGraph(width=None, declared=False).bytes()})
    with (
        Guard(bundle, registry=None) as guard,
        pytest.raises(
            InferenceError,
            match=r"expected float32 logits of shape \(2, 3\) for 2 inputs, got float32 of shape \(2, 2\)",
        ),
    ):
        guard(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(
        InferenceError, match=r"expected float32 logits of shape \(4, 3\) for 4 inputs, got float32 of shape \(4, 4\)"
    ):
        verify(bundle)


@pytest.mark.parametrize("form", ["original", "clipped"])
def test_a_network_of_other_weights_is_found(bundle: Path, form: str) -> None:
    network = tiny_network(seed=1)
    bounds = tiny_bounds(tiny_network()) if form == "clipped" else None
    put(bundle, {f"{form}.onnx": network.model(bounds).SerializeToString()})
    with pytest.raises(GraphMismatchError, match=f"the {form} network's logits on CPU"):
        verify(bundle)


def head_of(node: str = "Softmax", given: str = "mmguard_logits", name: str = "probabilities", width: Any = 3) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(node, [given], [name])],
        "head",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (head_of(given="logits"), "unexpected inputs: expected only 'mmguard_logits', got 'logits'"),
        (head_of(name="p"), r"no output 'probabilities' \(its outputs: 'p'\)"),
        (head_of(width=4), r"'mmguard_logits' of shape \('N', 4\), not \(None, 3\)"),
    ],
)
def test_a_head_that_is_not_the_manifest_s_is_refused_before_the_first_request(
    softmax: Path, content: bytes, refusal: str
) -> None:
    put(softmax, {"runtime/head.onnx": content})
    with pytest.raises(
        TamperedBundleError, match=rf"runtime_graphs\.head of the bundle does not match its manifest: .* {refusal}"
    ):
        Guard(softmax, registry=None)


def test_a_head_that_computes_something_else_is_found(softmax: Path) -> None:
    put(softmax, {"runtime/head.onnx": head_of("Sigmoid")})
    Guard(softmax, registry=None).close()
    message = (
        r"output 'probabilities' of runtime_graphs\.head .* at most 0\.001 "
        "from the original network's output, got"
    )
    with pytest.raises(GraphMismatchError, match=message):
        verify(softmax)


def test_a_head_of_other_rows_is_found(softmax: Path) -> None:
    model = onnx.load_from_string(head_of())
    model.graph.node[0].CopyFrom(helper.make_node("ReduceSum", ["mmguard_logits"], ["probabilities"]))
    put(softmax, {"runtime/head.onnx": model.SerializeToString()})
    with pytest.raises(GraphMismatchError, match="output 'probabilities'"):
        verify(softmax)


@pytest.mark.parametrize("name", [BOUNDS, PROBES])
def test_stored_numbers_that_are_not_finite_are_found(bundle: Path, name: str) -> None:
    opened = Bundle.open(bundle)
    tensors = opened.bounds() if name == BOUNDS else vars(opened.probes())
    tensors = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    write_tensors(bundle / name, {key: tensor * np.nan for key, tensor in tensors.items()})
    put(bundle, {})
    with pytest.raises(TamperedBundleError, match="contains NaN or infinity"):
        verify(bundle)


def test_weights_in_a_file_that_is_not_listed_are_refused(bundle: Path) -> None:
    model = tiny_network().model(tiny_bounds(tiny_network()))
    content = external(model, bundle, ["fc.weight", "relu2_mmguard_bound"], "weights.data")
    (bundle / "weights.data").rename(bundle.parent / "weights.data")
    put(bundle, {"clipped.onnx": content})  # a manifest that lists the graph, but not the file that it reads
    (bundle.parent / "weights.data").rename(bundle / "weights.data")
    with pytest.raises(TamperedBundleError, match=r"does not list: 'weights\.data'"):
        Guard(bundle, registry=None)
    put(bundle, {})
    assert verify(bundle) < 1e-5


def test_a_bundle_that_is_replaced_while_its_sessions_open_is_opened_anew(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmguard.guard import sessions

    newer, opened = write_tiny_bundle(tmp_path / "newer.mmguard", "newer", seed=1), list[Path]()
    wanted = Guard(newer, registry=None)(np.zeros((1, 3, 8, 8), np.float32)).p_values

    def replacing(path: Path, *arguments: Any) -> Any:
        if len(opened) == 1:  # between the original and the clipped network
            write_tiny_bundle(bundle, "newer", seed=1)
        opened.append(path)
        return open_session(path, *arguments)

    open_session: Callable[..., Any] = sessions.open_session
    monkeypatch.setattr(sessions, "open_session", replacing)
    with Guard(bundle, registry=None) as guard:
        assert guard.bundle.manifest.name == "newer"
        np.testing.assert_array_equal(guard(np.zeros((1, 3, 8, 8), np.float32)).p_values, wanted)


@pytest.mark.parametrize("device", ["tpu", ["CPUExecutionProvider"], None])
def test_another_device_is_refused(tiny_bundle: Path, device: Any) -> None:
    with pytest.raises(OptionError, match="device must be one of cpu, cuda"):
        verify_bundle(tiny_bundle, device)
