import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.contents import BOUNDS, PROBES
from mmguard.bundle.tensors import write_tensors
from mmguard.errors import GraphMismatchError, InferenceError, TamperedBundleError
from mmguard.guard import Guard
from mmguard.guard.sessions import PROVIDERS
from mmguard.guard.verify import verify_bundle
from tests.bundles import Head, tiny_bounds, tiny_network, write_tiny_bundle
from tests.stub_graphs import Plan, external, put


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.mmguard"))


@pytest.fixture
def softmax(tmp_path: Path) -> Path:
    """A bundle whose runtime_graphs have a head."""
    return write_tiny_bundle(tmp_path / "softmax.mmguard", head=Head.SOFTMAX)


def verify(bundle: Path) -> float:
    return verify_bundle(Bundle.open(bundle), PROVIDERS["cpu"])


@pytest.mark.parametrize("head", list(Head))
def test_an_untouched_bundle_passes(tmp_path: Path, head: Head) -> None:
    assert verify(write_tiny_bundle(tmp_path / "tiny.mmguard", head=head)) < 1e-5


@pytest.mark.parametrize("form", ["original", "clipped"])
@pytest.mark.parametrize(
    ("plan", "refusal"),
    [
        (Plan(inputs=("picture",)), "inputs 'picture', not 'image' alone"),
        (Plan(inputs=("image", "mask")), "inputs 'image', 'mask', not 'image' alone"),
        (Plan(dtype="float16"), "an input 'image' of tensor\\(float16\\), not of float32"),
        (Plan(dtype="int64"), "an input 'image' of tensor\\(int64\\), not of float32"),
        (Plan(shape=("N", 3, 8)), "'image' of shape .* not \\(None, 3, 8, 8\\)"),
        (Plan(shape=("N", 3, 8, 9)), "'image' of shape .* not \\(None, 3, 8, 8\\)"),
        (Plan(outputs=("scores",)), "no output 'logits' but 'scores'"),
        (Plan(out="float64"), "logits 'logits' of tensor\\(double\\), not tensor\\(float\\)"),
        (Plan(width=4), "'logits' of shape .* not \\(None, 3\\)"),
        (Plan(width=2), "'logits' of shape .* not \\(None, 3\\)"),
        (Plan(axes=1), "'logits' of shape .* not \\(None, 3\\)"),
        (Plan(axes=3), "'logits' of shape .* not \\(None, 3\\)"),
    ],
)
def test_a_network_that_is_not_the_manifest_s_is_refused_before_the_first_request(
    bundle: Path, form: str, plan: Plan, refusal: str
) -> None:
    put(bundle, {f"{form}.onnx": plan.bytes()})
    with pytest.raises(TamperedBundleError, match=rf"runtime_graphs\.{form} of the bundle is not .* {refusal}"):
        Guard(bundle, registry=None)


def test_logits_of_a_width_that_a_session_does_not_tell_are_refused_when_they_come(bundle: Path) -> None:
    put(bundle, {"clipped.onnx": Plan(width=None, declared=False).bytes()})
    with Guard(bundle, registry=None) as guard, pytest.raises(InferenceError, match=r"float32 \(2, 2\) for 2 inputs"):
        guard(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(InferenceError, match=r"float32 \(4, 4\) for 4 inputs"):
        verify(bundle)


@pytest.mark.parametrize("form", ["original", "clipped"])
def test_a_network_of_other_weights_is_found(bundle: Path, form: str) -> None:
    network = tiny_network(seed=1)
    bounds = tiny_bounds(tiny_network()) if form == "clipped" else None
    put(bundle, {f"{form}.onnx": network.model(bounds).SerializeToString()})
    with pytest.raises(GraphMismatchError, match=f"the {form} network's logits differs"):
        verify(bundle)


def tail_of(node: str = "Softmax", given: str = "mmguard_logits", name: str = "probabilities", width: Any = 3) -> bytes:
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
        (tail_of(given="logits"), "inputs 'logits', not 'mmguard_logits' alone"),
        (tail_of(name="p"), "no output 'probabilities' but 'p'"),
        (tail_of(width=4), r"'mmguard_logits' of shape \('N', 4\), not \(None, 3\)"),
    ],
)
def test_a_tail_that_is_not_the_manifest_s_is_refused_before_the_first_request(
    softmax: Path, content: bytes, refusal: str
) -> None:
    put(softmax, {"runtime/head.onnx": content})
    with pytest.raises(TamperedBundleError, match=rf"runtime_graphs\.head of the bundle is not .* {refusal}"):
        Guard(softmax, registry=None)


def test_a_tail_that_computes_something_else_is_found(softmax: Path) -> None:
    put(softmax, {"runtime/head.onnx": tail_of("Sigmoid")})
    Guard(softmax, registry=None).close()
    with pytest.raises(GraphMismatchError, match=r"output 'probabilities' as runtime_graphs\.head makes it .* differs"):
        verify(softmax)


def test_a_tail_of_other_rows_is_found(softmax: Path) -> None:
    model = onnx.load_from_string(tail_of())
    model.graph.node[0].CopyFrom(helper.make_node("ReduceSum", ["mmguard_logits"], ["probabilities"]))
    put(softmax, {"runtime/head.onnx": model.SerializeToString()})
    with pytest.raises(GraphMismatchError, match="output 'probabilities'"):
        verify(softmax)


@pytest.mark.parametrize("name", [BOUNDS, PROBES])
def test_stored_numbers_that_are_not_finite_are_found(bundle: Path, name: str) -> None:
    opened = Bundle.open(bundle)
    tensors = opened.bounds() if name == BOUNDS else vars(opened.probes())
    write_tensors(bundle / name, {key: tensor * np.nan for key, tensor in tensors.items()})
    put(bundle, {})
    with pytest.raises(TamperedBundleError, match="NaN or infinite"):
        verify(bundle)


def test_weights_in_a_file_that_is_not_listed_are_refused(bundle: Path) -> None:
    model = tiny_network().model(tiny_bounds(tiny_network()))
    content = external(model, bundle, ["fc.weight", "relu2_mmguard_bound"], "weights.data")
    (bundle / "weights.data").rename(bundle.parent / "weights.data")
    put(bundle, {"clipped.onnx": content})  # a manifest that pins the plan, and not the file that it reads
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
