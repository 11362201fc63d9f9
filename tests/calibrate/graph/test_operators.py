"""Every operator is compared with the test cases that ONNX ships, and with ONNX Runtime where opsets differ.

All of ONNX's node cases are run. A "case of floats" below is one with an input tensor of float16, bfloat16, float32 or
float64.
"""

import random
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.backend.test.case.node import collect_testcases
from torch import Tensor

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.operators import OPERATORS
from mmguard.errors import UnsupportedOperatorError

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

EQUAL, EQUAL_OF_FLOATS = 1472, 1218
"""Number of ONNX's cases with an equal result, and how many of them are cases of floats."""

REFUSED = {
    "the operator is random": 6,
    "control flow": 55,
    "recurrent networks": 18,
    "the operator computes with integers": 9,
    "strings have no gradient": 40,
    "the operator is for training only": 93,
    "decision trees": 2,
    "the operator selects boxes": 13,
    "training_mode": 8,
    "element type": 166,
    "align_corners": 2,
}
"""Number of ONNX's cases that are refused, by the first of these phrases in the message."""

UNTRIED = {"ConcatFromSequence", "GlobalLpPool", "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase"} | {
    *("SequenceLength", "SimplifiedLayerNormalization"),
}
"""Operators for which ONNX has no case without control flow."""

HALVES = {TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass
class Verdicts:
    """Results of ONNX's cases."""

    equal: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    floats: set[str] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    widened: dict[str, bool] = field(default_factory=dict)


def as_value(value: Any) -> Any:
    """Convert an array to a tensor, and a sequence of arrays to a list of tensors; keep anything else."""
    if value is None or isinstance(value, list):
        return value if value is None else [as_value(part) for part in value]
    array = np.array(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError:  # strings and 8-bit floats, which the graph refuses
        return array


def agrees(actual: Tensor, expected: Tensor) -> bool:
    """Whether dtype and shape are equal, and values within the tolerance of ONNX's own runner, or of the dtype."""
    coarse = {torch.float16: (1e-3, 1e-3), torch.bfloat16: (2e-2, 1e-3)}
    relative, absolute = coarse.get(expected.dtype, (1e-3, 1e-6))
    same = actual.dtype == expected.dtype and actual.shape == expected.shape
    return same and torch.allclose(actual, expected, relative, absolute, equal_nan=True)


def judge(model: onnx.ModelProto, inputs: dict[str, Any], outputs: dict[str, Any]) -> bool:
    """Whether all outputs are equal. A sequence is compared element by element, extracted with SequenceAt."""
    wanted = {}
    for name, value in outputs.items():
        for i, part in enumerate(value if isinstance(value, list) else ()):
            at = numpy_helper.from_array(np.array(i))
            model.graph.node.append(helper.make_node("Constant", [], [f"{name}_{i}"], value=at))
            model.graph.node.append(helper.make_node("SequenceAt", [name, f"{name}_{i}"], [f"{name}_at_{i}"]))
            wanted[f"{name}_at_{i}"] = part
        if not isinstance(value, list):
            wanted[name] = value
    parsed = ir.from_proto(model)
    return all(agrees(DifferentiableGraph(parsed, name).evaluate(inputs), out) for name, out in wanted.items())


def widened(model: onnx.ModelProto, inputs: dict[str, Any], outputs: dict[str, Any]) -> bool:
    """Whether all outputs are right when floats of other widths are computed in float32."""
    parsed = ir.from_proto(model)
    results = {name: DifferentiableGraph(parsed, name, widen=True).evaluate(inputs) for name in outputs}
    return all(
        results[name].dtype == (torch.float32 if out.is_floating_point() else out.dtype)
        and torch.allclose(results[name].double(), out.double(), 2e-2, 2e-2, equal_nan=True)
        for name, out in outputs.items()
    )


def element_types(model: onnx.ModelProto) -> set[int]:
    return {value.type.tensor_type.elem_type for value in model.graph.input}


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    """Run every case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns about infinities when it makes the cases
        cases = collect_testcases()
    result = Verdicts()
    for case in cases:
        assert case.model is not None
        assert case.data_sets is not None
        given, wanted = ([as_value(value) for value in values] for values in case.data_sets[0])
        inputs = {value.name: a for value, a in zip(case.model.graph.input, given, strict=True)}
        outputs = {value.name: a for value, a in zip(case.model.graph.output, wanted, strict=True)}
        types = element_types(case.model)
        result.floats |= {case.name} if types & FLOATS else set()
        try:
            equal = judge(case.model, inputs, outputs)
            if types & HALVES and "Cast" not in case.name and "cast" not in case.name:
                result.widened[case.name] = widened(case.model, inputs, outputs)
        except UnsupportedOperatorError as error:
            result.refused[case.name] = str(error)
            continue
        (result.equal if equal else result.wrong).append(case.name)
        result.operators |= {(node.domain, node.op_type) for node in case.model.graph.node}
    return result


def test_no_case_of_onnx_gives_a_wrong_result(verdicts: Verdicts) -> None:
    assert verdicts.wrong == []


def test_most_cases_of_onnx_are_equal(verdicts: Verdicts) -> None:
    assert len(verdicts.equal) == EQUAL
    assert len(verdicts.floats.intersection(verdicts.equal)) == EQUAL_OF_FLOATS


def test_cases_of_other_widths_are_equal_in_float32(verdicts: Verdicts) -> None:
    assert [name for name, equal in verdicts.widened.items() if not equal] == []
    assert len(verdicts.widened) >= 90


def test_every_operator_of_onnx_has_an_equal_case(verdicts: Verdicts) -> None:
    """Except those that can only be compared with ONNX Runtime, which the random graphs do."""
    assert {name for domain, name in OPERATORS.keys() - verdicts.operators if not domain} == UNTRIED


def test_the_refused_cases_are_these(verdicts: Verdicts) -> None:
    reasons = Counter(next((r for r in REFUSED if r in text), text) for text in verdicts.refused.values())
    assert reasons == REFUSED


def onnxruntime_result(model: onnx.ModelProto, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: npt.NDArray[Any] = session.run(None, {"x": x})[0]
    return result


OLD_FORMS = [
    (9, "y = Clip<min = -0.5, max = 0.5>(x)"),
    (6, "y = Clip<max = 0.5>(x)"),
    (11, "l = Constant<value = float {-0.5}>() y = Clip(x, l)"),
    (11, "y = Clip(x)"),
    (11, "y = Softmax<axis = 1>(x)"),
    (12, "y = LogSoftmax(x)"),
    (13, "y = Softmax(x)"),
    (11, "y = Unsqueeze<axes = [0, 3]>(x)"),
    (11, "a = Unsqueeze<axes = [1]>(x) y = Squeeze<axes = [1]>(a)"),
    (11, "y = ReduceSum<axes = [1], keepdims = 0>(x)"),
    (17, "y = ReduceMean<axes = [-1, 1]>(x)"),
    (18, "a = Constant<value_ints = [1]>() y = ReduceMean<keepdims = 0>(x, a)"),
    (18, "y = ReduceMax<noop_with_empty_axes = 1>(x)"),
    (17, "y = ReduceMax(x)"),
    (11, "a, y = Split<axis = 1, split = [1, 3]>(x)"),
    (13, "a, y = Split<axis = 1>(x)"),
    (18, "a, b, y = Split<axis = 2, num_outputs = 3>(x)"),
    (9, "y = Slice<axes = [1, 2], starts = [1, -4], ends = [9, -1]>(x)"),
    (10, "y = Pad<pads = [0, 1, 2, 0, 0, 1], value = 0.5>(x)"),
    (10, 'y = Pad<mode = "reflect", pads = [0, 1, 2, 0, 0, 1]>(x)'),
    (10, "y = Dropout<ratio = 0.3>(x)"),
    (12, "y = Dropout(x)"),
    (9, 's = Constant<value = float[3] {1.0, 2.0, 3.0}>() y = Upsample<mode = "nearest">(x, s)'),
    (14, "z = Constant<value_ints = [0, -1]>() y = Reshape(x, z)"),
    (15, "s = Shape<start = -2>(x) z = Cast<to = 1>(s) y = ReduceSum(z)"),
    (13, "s = Size(x) z = Cast<to = 1>(s) y = Sqrt(z)"),
    (15, "i = Constant<value = int64 {-1}>() y = Gather<axis = 1>(x, i)"),
    (15, "i = Constant<value_ints = [-1, 0]>() y = Gather<axis = 2>(x, i)"),
    (17, "s = Shape(x) z = ConstantOfShape<value = float[1] {2.0}>(s) y = Mul(x, z)"),
    (20, 'y = Gelu<approximate = "tanh">(x)'),
    (13, "y = HardSigmoid(x)"),
]


@pytest.mark.parametrize(("opset", "body"), OLD_FORMS)
def test_each_opsets_form_equals_onnxruntime(opset: int, body: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[n,4,6] x) => (float y) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.random.default_rng(opset).normal(size=(3, 4, 6)).astype(np.float32)
    expected = onnxruntime_result(model, x)
    actual = DifferentiableGraph(ir.from_proto(model), "y")(torch.from_numpy(x)).numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_group_normalization_changed_its_scale_at_opset_21() -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    scale, bias = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.5])
    body = "g (float[2,4,3] x, float[k] s, float[k] b) => (float y) { y = GroupNormalization<num_groups = 2>(x, s, b) }"
    for opset, repeats in ((18, 1), (21, 2)):
        text = f'<ir_version: 8, opset_import: ["" : {opset}]> {body}'
        graph = DifferentiableGraph(ir.from_onnx_text(text), "y")
        inputs = {"x": x, "s": scale.repeat_interleave(repeats), "b": bias.repeat_interleave(repeats)}
        expected = torch.nn.functional.group_norm(x, 2, scale.repeat_interleave(2), bias.repeat_interleave(2))
        torch.testing.assert_close(graph.evaluate(inputs), expected)


def windows(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Random windows: strides, dilations, uneven padding, `auto_pad` and `ceil_mode`."""
    draw = random.Random(0)
    return [_window(draw, draw.choice(["Conv", "MaxPool", "AveragePool"])) for _ in range(count)]


def _window(draw: random.Random, operator: str) -> tuple[str, dict[str, Any]]:
    kernel, strides, dilations = ([draw.randint(1, 3), draw.randint(1, 3)] for _ in range(3))
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if draw.random() < 0.3:  # strides within the kernel, because ONNX Runtime's pooling refuses larger ones here
        attributes["auto_pad"] = draw.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        strides = strides if operator == "Conv" else [min(pair) for pair in zip(strides, kernel, strict=True)]
    else:
        attributes |= {"pads": [draw.randint(0, kernel[i % 2] - 1) for i in range(4)], "dilations": dilations}
        attributes |= {} if operator == "Conv" else {"ceil_mode": draw.randint(0, 1)}
    attributes |= {"count_include_pad": draw.randint(0, 1)} if operator == "AveragePool" else {}
    return operator, attributes | {"strides": strides}


def window_model(operator: str, attributes: dict[str, Any]) -> onnx.ModelProto:
    weights = np.random.default_rng(1).normal(size=(4, 3, *attributes["kernel_shape"])).astype(np.float32)
    convolves = operator == "Conv"
    node = helper.make_node(operator, ["x", "w"] if convolves else ["x"], ["y"], **attributes)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    stored = [numpy_helper.from_array(weights, "w")] if convolves else []
    graph = helper.make_graph([node], "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def test_windows_equal_onnxruntime() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 11)).astype(np.float32)
    refused = 0
    for operator, attributes in windows(300):
        model = window_model(operator, attributes)
        graph = DifferentiableGraph(ir.from_proto(model), "y")
        try:
            actual = graph(torch.from_numpy(x)).numpy()
        except UnsupportedOperatorError:
            refused += 1
            continue
        expected = onnxruntime_result(model, x)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5, err_msg=f"{operator} {attributes}")
    assert refused <= 10
