"""Gradients at the points where calculus leaves them open, through quantisation, and in other precisions."""

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.operators import STRAIGHT_THROUGH

HEADER = '<ir_version: 8, opset_import: ["" : 21, "ai.onnx.ml" : 3, "com.microsoft" : 1]>'


def graph(
    body: str, shape: str = "n,3", widen: bool = False, **constants: npt.NDArray[np.generic]
) -> DifferentiableGraph:
    text = f"{HEADER} g (float[{shape}] x) => (float y) {{ {body} }}"
    stored = [ir.tensor(array, name=name) for name, array in constants.items()]
    return DifferentiableGraph(ir.from_onnx_text(text, initializers=stored), "y", widen=widen)


def gradient(network: DifferentiableGraph, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(network(x).sum(), x)
    return result


AT_SINGULAR_POINTS = [
    "y = Sqrt(x)",
    "z = Abs(x) h = Constant<value_float = 0.3>() y = Pow(z, h)",
    "h = Constant<value_float = -1.0>() y = Pow(x, h)",
    "y = Reciprocal(x)",
    "y = Log(x)",
    "one = Constant<value_float = 1.0>() z = Add(x, one) y = Acos(z)",
    "one = Constant<value_float = 1.0>() z = Add(x, one) y = Atanh(z)",
    "y = LpNormalization(x)",
    "y = LpNormalization<p = 1>(x)",
    "y = ReduceL2(x)",
    "y = ReduceLogSum(x)",
    "n = ReduceL2<keepdims = 1>(x) y = Div(x, n)",
    "a = Constant<value_ints = [0]>() u = Unsqueeze(x, a) y = GlobalLpPool(u)",
    'y = ai.onnx.ml.Normalizer<norm = "L2">(x)',
    "zero = Constant<value_float = 0.0>() up = Greater(x, zero) l = Log(x) y = Where(up, l, x)",
    "z = Constant<value_float = 0.0>() low = Log(z) s = Add(x, low) p = Softmax(s) n = IsNaN(p) y = Where(n, x, p)",
    "a = Constant<value_ints = [1]>() m = MeanVarianceNormalization<axes = [1]>(x) y = Mul(m, x)",
]


@pytest.mark.parametrize("body", AT_SINGULAR_POINTS)
def test_gradients_are_finite_at_singular_points(body: str) -> None:
    network = graph(body)
    for x in (torch.zeros(2, 3), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])):
        assert gradient(network, x).isfinite().all()


@pytest.mark.parametrize("mask", [np.array([[True, False], [False, False]]), np.array([[0, -np.inf]] * 2, np.float32)])
def test_gradients_of_attention_are_finite_where_all_is_masked(mask: npt.NDArray[np.generic]) -> None:
    text = '<ir_version: 8, opset_import: ["" : 24]> g (float[n,1,2,4] x) => (float y) { y = Attention(x, x, x, m) }'
    network = DifferentiableGraph(ir.from_onnx_text(text, initializers=[ir.tensor(mask, name="m")]), "y")
    x = torch.randn(3, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    assert network(x).isfinite().all()
    assert gradient(network, x).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "there", "back"),
    [((1, 3, 4, 4), [2, 1, 0, 3], [2, 0, 1, 3]), ((2, 3, 4, 1), [0, 1, 3, 2], [0, 1, 3, 2])],
)
def test_batch_normalization_has_its_gradient_in_every_layout(
    shape: tuple[int, ...], there: list[int], back: list[int]
) -> None:
    factor = np.array([0.5, -2.0, 3.0], np.float32)
    body = f"a = Transpose<perm = {there}>(x) n = BatchNormalization(a, s, s, s, v) y = Transpose<perm = {back}>(n)"
    network = graph(body, ",".join(map(str, shape)), s=factor, v=np.ones(3, np.float32))
    x = torch.zeros(shape, requires_grad=True)
    weights = torch.randn(network(x).shape, generator=torch.Generator().manual_seed(0))
    (result,) = torch.autograd.grad((network(x) * weights).sum(), x)
    returned = weights.permute(np.argsort(back).tolist()).permute(np.argsort(there).tolist())
    torch.testing.assert_close(result, returned * torch.from_numpy(factor)[:, None, None], rtol=1e-4, atol=1e-4)


SCALE, ZERO = np.array(0.1, np.float32), np.array(10, np.uint8)
X = torch.tensor([[-1.06, -0.96, 0.0], [0.33, 24.4, 24.6]])
INSIDE = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    "between",
    [
        "r = Identity(q)",
        "r = Transpose(q)",
        "a = Constant<value_ints = [1]>() u = Unsqueeze(q, a) r = MaxPool<kernel_shape = [1]>(u)",
        "r = Concat<axis = 0>(q)",
        "s = Shape(q) r = Reshape(q, s)",
    ],
)
def test_quantisation_passes_gradients_of_one_within_its_range(between: str) -> None:
    network = graph(f"q = QuantizeLinear(x, s0, z0) {between} y = DequantizeLinear(r, s0, z0)", s0=SCALE, z0=ZERO)
    torch.testing.assert_close(gradient(network, X), INSIDE)
    rounded = (X / 0.1).round().clamp(-10, 245) * 0.1
    torch.testing.assert_close(network(X).flatten().sort().values, rounded.flatten().sort().values)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_quantisation_per_axis_passes_gradients(dtype: type[np.integer]) -> None:
    scales, zeros = np.array([0.1, 0.2, 100], np.float32), np.zeros(3, dtype)
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Mul(d, d)"
    network = graph(body, s=scales, z=zeros)
    x = torch.tensor([[0.51, 1.0, 300.0]])
    torch.testing.assert_close(network(x), torch.tensor([[0.25, 1.0, 90000.0]]))
    torch.testing.assert_close(gradient(network, x), torch.tensor([[1.0, 2.0, 600.0]]))


def test_a_dynamically_quantised_layer_has_the_gradient_of_its_weights() -> None:
    weight = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)
    body = """q, s, z = DynamicQuantizeLinear(x) p = MatMulInteger(q, w, z) f = Cast<to = 1>(p) y = Mul(f, s)"""
    network = graph(body, w=weight)
    x = torch.tensor([[0.5, -1.0, 2.0]])
    torch.testing.assert_close(gradient(network, x), torch.from_numpy(weight).float().sum(1, keepdim=True).T)
    torch.testing.assert_close(network(x), x @ torch.from_numpy(weight).float(), rtol=0.02, atol=0.05)


def test_quantised_values_that_are_answers_keep_their_dtype() -> None:
    network = graph("y = QuantizeLinear(x, s0, z0)", s0=SCALE, z0=ZERO)
    assert network(X).dtype == torch.uint8
    seen = graph("q = QuantizeLinear(x, s0, z0) b = BitwiseNot(q) y = DequantizeLinear(b, s0, z0)", s0=SCALE, z0=ZERO)
    assert seen(torch.zeros(1, 3)).unique().item() == pytest.approx((245 - 10) * 0.1)


def test_operators_that_stand_in_are_not_for_models() -> None:
    text = f'<ir_version: 8, opset_import: ["" : 21, "{STRAIGHT_THROUGH}" : 1]> g (float[n] x) => (float[n] y)'
    with pytest.raises(Exception, match="MatMulInteger"):
        DifferentiableGraph(ir.from_onnx_text(f"{text} {{ y = {STRAIGHT_THROUGH}.MatMulInteger(x, x) }}"), "y")


HALF = """
<ir_version: 10, opset_import: ["" : 21]> g (DTYPE[n,3] x) => (DTYPE[n,3] y)
{
    zero = Constant<value_float = 0.0>()
    like = CastLike(zero, x)
    half = Cast<to = CODE>(like)
    shape = Shape(x)
    filled = ConstantOfShape<value = DTYPE[1] {1}>(shape)
    m = MatMul(x, w)
    wide = Cast<to = 1>(m)
    narrow = Cast<to = CODE>(wide)
    s = Add(narrow, filled)
    y = Add(s, half)
}
"""


@pytest.mark.parametrize(("dtype", "code"), [("float16", 10), ("double", 11)])
def test_every_float_is_float32_where_widened(dtype: str, code: int) -> None:
    kinds = {"float16": np.float16, "double": np.float64}
    weights = ir.tensor(np.arange(9).reshape(3, 3).astype(kinds[dtype]) / 8, name="w")
    model = ir.from_onnx_text(HALF.replace("DTYPE", dtype).replace("CODE", str(code)), initializers=[weights])
    network = DifferentiableGraph(model, "y", widen=True)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert all(buffer.dtype == torch.float32 for buffer in network.buffers())
    assert {value.dtype for name, value in network.record(x, network.values).items() if name != "shape"} == {
        torch.float32
    }
    torch.testing.assert_close(network(x), network(x.to(torch.float64)))
    exact = DifferentiableGraph(model, "y")
    torch.testing.assert_close(network(x), exact(x.to(torch.float16 if code == 10 else torch.float64)).float())


def test_the_lowest_double_stays_finite_where_widened() -> None:
    lowest = np.array(np.finfo(np.float64).min)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (double[n] x) => (double[n] y) { y = Add(x, m) }'
    model = ir.from_onnx_text(text, initializers=[ir.tensor(lowest, name="m")])
    y = DifferentiableGraph(model, "y", widen=True)(torch.zeros(1))
    assert math.isfinite(y.item())
    assert y.item() < -1e38


def test_operators_run_where_products_are_in_bfloat16() -> None:
    body = """
    m = MatMul(x, w) a = ScatterElements<axis = 1>(m, i, x) b = ScatterND(a, j, x) c = Concat<axis = 0>(b, x)
    u = Unsqueeze(c, i0) v = Unsqueeze(u, i0) k = Conv(v, c1) r = Resize<mode = "linear">(k, "", f) g = GridSample(r, p)
    q = QuantizeLinear(g, s0, z0) d = DequantizeLinear(q, s0, z0) e = LayerNormalization(d, w3) y = Where(t, e, d)
    """
    network = graph(
        body,
        w=np.eye(3, dtype=np.float32),
        i=np.array([[0, 1, 2]]),
        j=np.array([[0]]),
        i0=np.array([0]),
        c1=np.ones((1, 1, 1, 1), np.float32),
        f=np.array([1, 1, 2, 1], np.float32),
        p=np.zeros((1, 2, 3, 2), np.float32),
        s0=SCALE,
        z0=ZERO,
        w3=np.ones(3, np.float32),
        t=np.array([True, False, True]),
    )
    x = torch.tensor([[0.5, 1.0, 1.5]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.isfinite().all()
    assert torch.autograd.grad(y.float().sum(), x)[0].isfinite().all()
