"""A guard whose test reads activations: what its runtime graph returns, and what happens where that is missing."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from mmguard import wrap
from mmguard.bundle.bundle import Bundle
from mmguard.bundle.file_names import PROBES
from mmguard.bundle.manifest import ACTIVATIONS
from mmguard.bundle.tensors import read_tensors, write_tensors
from mmguard.errors import GraphMismatchError, InferenceError, TamperedBundleError
from mmguard.exporter.equality import run
from mmguard.guard import Guard, Policy
from mmguard.guard.sessions import NetworkOutput
from mmguard.guard.verify import verify_bundle
from mmguard.types import Decision, Reason
from tests.bundles import Array, add_trigger, clean_inputs
from tests.guard.wrapping.endings import callable_of, rows_of_the_original, session_of, write_evidence_bundle
from tests.stub_graphs import put

X = np.concatenate([clean_inputs(60, seed=3), add_trigger(clean_inputs(40, seed=4))])
BAD = [1, 70]
GOOD = np.setdiff1d(np.arange(len(X)), BAD)
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}
BOTH = Policy(screen=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evidence_bundle(tmp_path_factory.mktemp("evidence") / "b")


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "b"))


def runtime_graph(bundle: Path) -> onnx.ModelProto:
    return onnx.load(bundle / "runtime/original.onnx")


def test_the_test_reads_what_the_runtime_graph_returns_of_activations(made: Path) -> None:
    logits = {form: run(made / f"{form}.onnx", X, "scores") for form in ("original", "clipped")}
    activations = run(made / "runtime/original.onnx", X, ACTIVATIONS)
    null = Bundle.open(made).manifest.null
    assert null is not None
    expected = null.test()(logits["original"], logits["clipped"], activations)
    with Guard(made, policy=BOTH, **OPTIONS) as guard:
        decision = guard(X)
    # float32 logits from two sessions, one of which may fuse other operators
    np.testing.assert_allclose(decision.p_values, expected.p_values, rtol=1e-3, atol=1e-12)
    np.testing.assert_array_equal(decision.flagged, expected.flagged)
    assert decision.flagged[60:].mean() > 0.5 > decision.flagged[:60].mean()


@pytest.mark.parametrize("wrapped", ["session", "callable"])
@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}, {"mode": "shadow"}], ids=str)
def test_a_wrapped_predictor_gets_the_decisions_of_the_guard(made: Path, policy: dict[str, Any], wrapped: str) -> None:
    with Guard(made, policy=Policy(**policy), **OPTIONS) as guard:
        expected = guard.infer(X)
    decisions = list[Decision]()
    predictor = session_of(made) if wrapped == "session" else callable_of(made)
    safe = wrap(predictor, made, policy=Policy(**policy), on_decision=decisions.append, **OPTIONS)
    rows = rows_of_the_original(safe)
    answer = safe.run(None, {"image": X})[0] if wrapped == "session" else safe(X)
    assert sum(rows) == len(X), "a predictor does not show its activations, so the bundle's original runs once"
    for name in ("labels", "flagged", "corrected", "reasons"):
        np.testing.assert_array_equal(getattr(decisions[0], name), getattr(expected.decision, name), err_msg=name)
    # float32 logits from two sessions, one of which may fuse other operators
    np.testing.assert_allclose(decisions[0].p_values, expected.decision.p_values, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(answer, expected.output, rtol=1e-4, atol=1e-5)
    safe.close()


def without_activations(guard: Guard, monkeypatch: pytest.MonkeyPatch, value: float, column: int = 1) -> None:
    """Make the original network return one odd distance, or the odd excess of column 2, in the bad rows."""
    network = guard.networks.original

    def spoilt(x: Array) -> NetworkOutput:
        output = network(x)
        assert output.activations is not None
        activations = output.activations.copy()
        activations[BAD, column] = value
        return NetworkOutput(output.outputs, output.logits, activations)

    monkeypatch.setattr(guard.networks, "original", spoilt)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [1, 2], ids=["distance", "excess"])
@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_a_row_without_activations_is_untested_and_the_others_are_tested(
    made: Path, monkeypatch: pytest.MonkeyPatch, value: float, column: int, on_error: Any
) -> None:
    registry = CollectorRegistry()
    with Guard(made, policy=Policy(on_error=on_error), registry=registry, threads=1) as guard:
        alone = guard(X[GOOD])
        without_activations(guard, monkeypatch, value, column)
        decision = guard(X)
        own = guard.networks.original(X).logits.argmax(axis=1)
    assert decision.reasons[BAD].tolist() == [Reason.UNTESTED] * 2
    assert np.isnan(decision.p_values[BAD]).all()
    assert decision.labels[BAD].tolist() == (own[BAD].tolist() if on_error == "open" else [-1, -1])
    np.testing.assert_array_equal(decision.flagged[GOOD], alone.flagged)
    np.testing.assert_array_equal(decision.labels[GOOD], alone.labels)
    labels = {"model": Bundle.open(made).manifest.name, "cause": "inference"}
    assert registry.get_sample_value("mmguard_untested_total", labels) == 2


def test_by_default_a_row_without_activations_raises(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guard(made, **OPTIONS) as guard:
        without_activations(guard, monkeypatch, np.nan)
        with pytest.raises(InferenceError, match=r"rows 1, 70 contain NaN or infinite values") as caught:
            guard(X)
    assert caught.value.rows == (1, 70)


def test_a_bundle_with_evidence_passes(made: Path) -> None:
    assert verify_bundle(made) < 1e-5


def test_other_activations_of_the_probes_are_found(bundle: Path) -> None:
    tensors = read_tensors(bundle / PROBES)
    write_tensors(bundle / PROBES, tensors | {"activations": tensors["activations"] * np.float32(1.01)})
    put(bundle, {})
    with pytest.raises(GraphMismatchError, match=r"activations on CPU.*activations stored in the bundle"):
        verify_bundle(bundle)


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The constants by which the runtime graph computes distances and the excess, by what they are."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    distances, excess = (producers[name] for name in producers[ACTIVATIONS].input)

    (total,) = (producers[name] for name in distances.input)
    beyond = producers[excess.input[0]]
    (outside,) = (producers[name] for name in producers[beyond.input[0]].input)
    (apart,) = (producers[name] for name in producers[outside.input[0]].input)
    by_class = {"medians": apart, "widths": outside, "shares": beyond}
    gathered = {what: constants[producers[node.input[1]].input[0]] for what, node in by_class.items()}
    return gathered | {"signs": constants[total.input[1]], "ones": constants[excess.input[1]]}


@pytest.mark.parametrize("name", ["signs", "medians", "widths", "shares", "ones"])
def test_gaussians_and_ranges_of_other_numbers_are_found(bundle: Path, name: str) -> None:
    """The numbers lie in the runtime graph; logits alone would not show that they were changed."""
    model = runtime_graph(bundle)
    constant = constants_of(model)[name]
    changed = np.float32(1.1) * onnx.numpy_helper.to_array(constant)
    constant.CopyFrom(onnx.numpy_helper.from_array(changed, constant.name))
    put(bundle, {"runtime/original.onnx": model.SerializeToString()})
    with pytest.raises(GraphMismatchError, match="activations on CPU"):
        verify_bundle(bundle)


def test_activations_that_are_not_finite_are_refused_when_the_probes_are_read(bundle: Path) -> None:
    tensors = read_tensors(bundle / PROBES)
    write_tensors(bundle / PROBES, tensors | {"activations": tensors["activations"] * np.float32(np.nan)})
    put(bundle, {})
    with pytest.raises(TamperedBundleError, match="contains NaN or infinity"):
        verify_bundle(bundle)


def output_of(nodes: list[onnx.NodeProto], kind: int, shape: list[Any]) -> tuple[list[onnx.NodeProto], Any]:
    return nodes, helper.make_tensor_value_info(ACTIVATIONS, kind, shape)


@pytest.mark.parametrize(
    ("replacement", "refusal"),
    [
        (None, rf"no output '{ACTIVATIONS}'"),
        (
            output_of(
                [helper.make_node("Cast", ["d"], [ACTIVATIONS], to=TensorProto.DOUBLE)], TensorProto.DOUBLE, ["N", 3]
            ),
            rf"activations '{ACTIVATIONS}' of type tensor\(double\), not tensor\(float\)",
        ),
        (
            output_of([helper.make_node("Concat", ["d", "d"], [ACTIVATIONS], axis=1)], TensorProto.FLOAT, ["N", 6]),
            rf"a tensor '{ACTIVATIONS}' of shape \('N', 6\), not \(None, 3\)",
        ),
    ],
    ids=["missing", "double", "wide"],
)
def test_a_network_without_the_activations_of_the_manifest_is_refused_before_the_first_request(
    bundle: Path, replacement: tuple[list[onnx.NodeProto], Any] | None, refusal: str
) -> None:
    model = runtime_graph(bundle)
    graph = model.graph
    (node,) = (node for node in graph.node if ACTIVATIONS in node.output)
    node.output[0] = "d"
    (place,) = (i for i, output in enumerate(graph.output) if output.name == ACTIVATIONS)
    del graph.output[place]
    for i, value in reversed(list(enumerate(graph.value_info))):
        if value.name == ACTIVATIONS:
            del graph.value_info[i]
    if replacement is not None:
        graph.node.extend(replacement[0])
        graph.output.append(replacement[1])
    put(bundle, {"runtime/original.onnx": model.SerializeToString()})
    with pytest.raises(
        TamperedBundleError, match=rf"runtime_graphs\.original of the bundle does not match its manifest: .*{refusal}"
    ):
        Guard(bundle, registry=None)
