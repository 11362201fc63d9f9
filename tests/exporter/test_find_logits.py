"""Find the logits for every way in which classifiers end."""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mmguard.errors import NotClassifierError, OptionError
from mmguard.exporter.add_logits import file_with_logits, with_logits
from mmguard.exporter.classifier import LOGITS, read_classifier
from mmguard.exporter.find_logits import LogitsSource, find_logits
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.runtime_graphs import write_runtime_graphs
from tests.bundles import Array
from tests.networks import HEADER

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def network(outputs: str, end: str, columns: int = 3) -> str:
    """A layer, an activation, a layer that gives `raw` (N, columns), and what follows."""
    weights = ", ".join(f"{value:.2f}" for value in np.random.default_rng(1).normal(size=4 * columns))
    return f"""{HEADER}
    net (float[n,4] x) => ({outputs})
    <float[4,{columns}] w = {{{weights}}}>
    {{
        hidden = Relu(x)
        raw = MatMul(hidden, w)
        {end}
    }}"""


def logits_of(outputs: str, end: str, columns: int = 3, name: str | None = None) -> LogitsSource:
    return find_logits(ir.from_onnx_text(network(outputs, end, columns)), name)


COLUMN = "a = Constant<value_ints = [1]>() flat = Squeeze(raw, a) p = Sigmoid(flat)"
BOTH = "p = Sigmoid(raw) one = Constant<value = float {1.0}>() q = Sub(one, p) both = Concat<axis = 1>(q, p)"
BEST = "p = Softmax(raw) k = Constant<value_ints = [2]>() best, which = TopK(p, k)"
DECIDED = "p = Softmax(raw) label = ArgMax<axis = -1, keepdims = 0>(p)"
ENDS = [
    ("float[n,3] raw", "", 3, ("raw",), ()),
    ("float[n,3] p", "p = Softmax(raw)", 3, ("p",), ("Softmax",)),
    ("float[n,3] raw, float[n,3] p", "p = Softmax(raw)", 3, ("raw", "p"), ("Softmax",)),
    ("int64[n] label", "label = ArgMax<axis = 1, keepdims = 0>(raw)", 3, ("label",), ("ArgMax",)),
    ("float[n,3] p, int64[n] label", DECIDED, 3, ("p", "label"), ("Softmax", "ArgMax")),
    ("float[n,2] best, int64[n,2] which", BEST, 3, ("best", "which"), ("Softmax", "TopK")),
    ("float16[n,3] p", "q = Softmax(raw) p = Cast<to = 10>(q)", 3, ("p",), ("Softmax",)),
    ("float[n,1] p", "p = Sigmoid(raw)", 1, ("p",), ("Sigmoid",)),
    ("float[n] p", COLUMN, 1, ("p",), ("Sigmoid",)),
    ("float[n,2] both", BOTH, 1, ("both",), ("Sigmoid", "Sub", "Concat")),
]


@pytest.mark.parametrize(("outputs", "end", "columns", "derived", "head"), ENDS)
def test_every_end_leads_back_to_the_logits(
    outputs: str, end: str, columns: int, derived: tuple[str, ...], head: tuple[str, ...]
) -> None:
    assert logits_of(outputs, end, columns) == LogitsSource("raw", ir.DataType.FLOAT, columns, derived, head)


@pytest.mark.parametrize(("outputs", "end", "columns", "derived", "head"), ENDS)
def test_runtime_graphs_and_head_give_what_the_model_gives(
    tmp_path: Path, outputs: str, end: str, columns: int, derived: tuple[str, ...], head: tuple[str, ...]
) -> None:
    path = tmp_path / "original.onnx"
    ir.save(ir.from_onnx_text(network(outputs, end, columns)), path)
    classifier = read_classifier(path)
    write_clipped(classifier, {"hidden": np.full(4, 0.5, np.float32)}, tmp_path / "clipped.onnx")
    runtime_graphs = write_runtime_graphs(tmp_path, classifier)
    model = run(path, X)
    both = run(tmp_path / runtime_graphs["original"], X)
    for name, expected in model.items():
        np.testing.assert_array_equal(both[name], expected)
    logits = both[classifier.output.logits]
    assert logits.dtype == np.float32
    assert logits.shape == (6, max(2, columns))
    assert ("head" in runtime_graphs) == bool(classifier.output.derived)
    if "head" in runtime_graphs:
        made = run(tmp_path / runtime_graphs["head"], logits, classifier.output.logits)
        assert tuple(made) == classifier.output.derived
        for name, array in made.items():
            assert array.dtype == model[name].dtype
            np.testing.assert_allclose(array, model[name], rtol=1e-3, atol=1e-6)


def run(path: Path, x: Array, given: str = "x") -> dict[str, Array]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip((value.name for value in session.get_outputs()), session.run(None, {given: x}), strict=True))


def test_one_sigmoid_is_two_classes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(ir.from_onnx_text(network("float[n,1] p", "p = Sigmoid(raw)", 1)), path)
    classifier = read_classifier(path)
    assert classifier.output.logits == LOGITS
    with file_with_logits(classifier) as copy:
        found = run(copy, X)
    p = found["p"][:, 0]
    np.testing.assert_array_equal(found[LOGITS][:, 0], 0)
    np.testing.assert_allclose(found[LOGITS][:, 1], np.log(p / (1 - p)), rtol=1e-4)
    assert not copy.exists()
    assert [value.name for value in with_logits(classifier).graph.outputs] == ["p", LOGITS]
    assert [value.name for value in classifier.model.graph.outputs] == ["p"], "the model itself stays"


def test_a_sigmoid_behind_a_scaler_is_two_classes() -> None:
    body = network("float[n,2] both", BOTH, 1).replace(
        "hidden = Relu(x)", "near = ai.onnx.ml.Scaler<offset = [1.0], scale = [2.0]>(x) hidden = Relu(near)"
    )
    assert find_logits(ir.from_onnx_text(body)).one_column


def test_a_hidden_sigmoid_is_no_end() -> None:
    body = network("float[n,2] out", "gate = Sigmoid(raw) out = MatMul(gate, v)").replace(
        "<float[4,3] w", "<float[3,2] v = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[4,3] w"
    )
    assert find_logits(ir.from_onnx_text(body)).value == "out"


def test_a_tanh_at_the_end_decides_nothing() -> None:
    assert logits_of("float[n,3] out", "out = Tanh(raw)").value == "out"


AFTER = {
    "einsum": 'out = Einsum<equation = "nf,fk->nk">(h, v)',
    "table": "a = Constant<value_ints = [2]>() u = Unsqueeze(h, a) m = Mul(u, v) b = Constant<value_ints = [1]>()"
    " out = ReduceSum<keepdims = 0>(m, b)",
    "quantised": "q, s, z = DynamicQuantizeLinear(h) i = MatMulInteger(q, eight, z)"
    " f = Cast<to = 1>(i) out = Mul(f, s)",
}


@pytest.mark.parametrize("hidden", ["g = Sigmoid(raw) h = Mul(raw, g)", "h = Softmax(raw)"])
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_what_a_later_layer_takes_is_no_end(hidden: str, after: str) -> None:
    constants = "<float[3,2] v = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, uint8[3,2] eight = {1, 2, 3, 4, 5, 6}, float[4,3] w"
    body = network("float[n,2] out", f"{hidden} {after}").replace("<float[4,3] w", constants)
    assert find_logits(ir.from_onnx_text(body)).value == "out"


def test_a_gate_and_an_attention_are_no_end() -> None:
    gated = "gate = Sigmoid(raw) mixed = Mul(gate, raw) weight = Softmax(raw) out = Mul(mixed, weight)"
    assert logits_of("float[n,3] out", gated).value == "raw", "all of it is a function of the logits alone"
    gated = "side = MatMul(x, w) gate = Sigmoid(side) out = Mul(gate, raw)"
    assert logits_of("float[n,3] out", gated).value == "out"


def test_a_softmax_over_the_batch_decides_nothing() -> None:
    assert logits_of("float[n,3] out", "out = Softmax<axis = 0>(raw)").value == "out"


def test_outputs_beside_the_logits_stay_the_original_s(tmp_path: Path) -> None:
    found = logits_of("float[n,3] p, float[n,4] hidden", "p = Softmax(raw)")
    assert (found.value, found.derived) == ("raw", ("p",))


@pytest.mark.parametrize(
    ("outputs", "end", "message"),
    [
        ("float[n,3] raw, float[n,4] hidden", "", "'raw' and 'hidden' could each be the logits .* with --logits NAME"),
        ("float[n,1] raw", "", r"cannot find the logits of a classifier .*K at least 2.*'raw' \(FLOAT, shape"),
        ("float[n,3,1] out", "a = Constant<value_ints = [2]>() out = Unsqueeze(raw, a)", r"'out' \(FLOAT, shape"),
        ("int64[n,3] out", "out = Cast<to = 7>(raw)", r"'out' \(INT64, shape"),
    ],
)
def test_what_could_be_several_or_is_none_is_refused(outputs: str, end: str, message: str) -> None:
    with pytest.raises(NotClassifierError, match=message):
        logits_of(outputs, end, 1 if "n,1] raw" in outputs else 3)


MULTI_LABEL = {
    "sigmoids": ("float[n,3] p", "p = Sigmoid(raw)"),
    "two of them": ("float[n,2] p", "p = Sigmoid(raw)"),
    "behind the logits": ("float[n,3] raw, float[n,3] p", "p = Sigmoid(raw)"),
    "in half precision": ("float16[n,3] p", "s = Sigmoid(raw) p = Cast<to = 10>(s)"),
    "logarithms": ("float[n,3] p", "s = Sigmoid(raw) p = Log(s)"),
    "thresholds": ("bool[n,3] p", "h = Constant<value = float {0.5}>() s = Sigmoid(raw) p = Greater(s, h)"),
    "hard labels": (
        "int64[n,3] p",
        "h = Constant<value = float {0.5}>() s = Sigmoid(raw) b = GreaterOrEqual(s, h) p = Cast<to = 7>(b)",
    ),
    "what is not": ("float[n,3] p", "o = Constant<value = float {1.0}>() s = Sigmoid(raw) p = Sub(o, s)"),
}


@pytest.mark.parametrize(("outputs", "end"), MULTI_LABEL.values(), ids=list(MULTI_LABEL))
def test_a_multi_label_model_is_refused_by_name(outputs: str, end: str) -> None:
    columns = 2 if "n,2" in outputs else 3
    with pytest.raises(NotClassifierError, match=r"is multi-label: its output 'p' .* pass --logits raw"):
        logits_of(outputs, end, columns)
    assert "p" in logits_of(outputs, end, columns, name="raw").derived, "the way out that the message names"


def test_thresholds_without_sigmoids_are_refused_as_multi_label() -> None:
    end = "h = Constant<value = float {0.0}>() b = Greater(raw, h) p = Cast<to = 7>(b)"
    with pytest.raises(
        NotClassifierError, match="looks like a multi-label model, in which several classes may be true"
    ):
        logits_of("int64[n,3] p", end)


SINGLE_LABEL = {
    "the largest": ("int64[n] label", "p = Sigmoid(raw) label = ArgMax<axis = 1, keepdims = 0>(p)"),
    "both": ("float[n,3] p, int64[n] label", "p = Sigmoid(raw) label = ArgMax<axis = 1, keepdims = 0>(p)"),
    "one against the rest": (
        "float[n,3] q",
        "p = Sigmoid(raw) a = Constant<value_ints = [1]>() t = ReduceSum(p, a) q = Div(p, t)",
    ),
    "an activation": ("float[n,3] out", "s = Sigmoid(raw) out = Mul(raw, s)"),
}


@pytest.mark.parametrize(("outputs", "end"), SINGLE_LABEL.values(), ids=list(SINGLE_LABEL))
def test_sigmoids_of_which_one_is_chosen_are_no_labels_apart(outputs: str, end: str) -> None:
    assert logits_of(outputs, end).value == "raw"


def test_many_values_that_could_be_logits_are_refused_at_once() -> None:
    chain = " ".join(f"s{i + 1} = Sigmoid(s{i})" for i in range(200))
    with pytest.raises(NotClassifierError, match=r"20[01] values could be the logits; choose one with --logits NAME"):
        logits_of("float[n,3] s200", f"s0 = Identity(raw) {chain}")


ADVICE = {
    "a regression": (
        "float[n,1] raw",
        "",
        1,
        "A model that outputs a single number is usually a regression model.* pass --logits raw",
    ),
    "boxes": (
        "float[n,3,1] out",
        "t = Transpose<perm = [1, 0]>(raw) a = Constant<value_ints = [2]>() u = Transpose<perm = [1, 0]>(t)"
        " out = Unsqueeze(u, a)",
        3,
        "pass the name of its logits with --logits; candidates: ",
    ),
}


@pytest.mark.parametrize(("outputs", "end", "columns", "advice"), ADVICE.values(), ids=list(ADVICE))
def test_advice_is_given_where_it_helps(outputs: str, end: str, columns: int, advice: str) -> None:
    with pytest.raises(NotClassifierError, match=advice) as refused:
        logits_of(outputs, end, columns)
    name = re.split("--logits |candidates: ", str(refused.value))[-1].split(",")[0]
    assert logits_of(outputs, end, columns, name=name).value == name


def test_a_detector_is_told_that_it_is_one() -> None:
    body = f"""{HEADER}
    net (float[n,2,4,4] x) => (float[n,3,4,4] maps) <float[3,2,1,1] w = {{1, 2, 3, 4, 5, 6}}>
    {{ hidden = Relu(x) maps = Conv(hidden, w) }}"""
    with pytest.raises(
        NotClassifierError, match="looks like a detector, a segmentation model or a sequence model"
    ) as refused:
        find_logits(ir.from_onnx_text(body))
    assert "--logits" not in str(refused.value), "no name would help"


def test_the_user_chooses(tmp_path: Path) -> None:
    outputs = "float[n,3] raw, float[n,4] hidden"
    assert logits_of(outputs, "", name="raw").derived == ("raw",)
    with pytest.raises(
        OptionError, match=r"--logits 'ra': the model computes no value with that name; values with similar names: raw"
    ):
        logits_of(outputs, "", name="ra")
    with pytest.raises(OptionError, match=r"--logits 'which' has dtype INT64 .* pass the name of a float value"):
        logits_of("int64[n] which", "which = ArgMax<axis = 1, keepdims = 0>(raw)", name="which")
