"""Activations that several nodes compute together, in the orders that exporters and optimisers write."""

import numpy as np
import pytest

from mmguard.exporter.sites.curves import CURVES, GRID, recognise
from tests.exporter.sites.graphs import CONVOLVED, operators, surveyed

NUMBERS = {
    "zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "third": 1 / 3, "sixth": 1 / 6,
    "root": 2**0.5, "inverse": 0.5**0.5, "cubic": 0.044715, "slope": (2 / np.pi) ** 0.5, "quick": 1.702, "tenth": 0.1,
    "twenty": 20.0,
}  # fmt: skip
CONSTANTS = ", ".join(f"float {name} = {{{number}}}" for name, number in NUMBERS.items())
CONSTANTS += ", float[4,1,1] each = {0.5, 1.0, 1.5, 2.0}, float[4,1,1] down = {-0.5, -0.4, -0.3, -0.2}"

TANH = "q = Mul(cubic, {}) i = Add(c, q) j = Mul(i, slope) t = Tanh(j) o = Add(t, one) "

FORMS = [
    # PyTorch's exporters, and Hugging Face's modules
    ("Gelu", "d = Div(c, root) e = Erf(d) o = Add(e, one) m = Mul(c, o) y = Mul(m, half)"),
    # ONNX's own function, tf2onnx, and optimisers that move the factors
    ("Gelu", "d = Mul(c, inverse) e = Erf(d) o = Add(one, e) h = Mul(half, c) y = Mul(h, o)"),
    ("Gelu", "d = Mul(inverse, c) e = Erf(d) o = Add(e, one) h = Mul(o, half) y = Mul(h, c)"),
    ("Gelu", "d = Div(c, root) e = Erf(d) h = Mul(e, half) o = Add(h, half) y = Mul(c, o)"),
    ("Gelu", "r = Sqrt(two) d = Div(c, r) e = Erf(d) o = Sum(e, one) m = Mul(o, c) y = Div(m, two)"),
    ("Gelu", "p = Pow(c, three) " + TANH.format("p") + "m = Mul(c, o) y = Mul(half, m)"),
    ("Gelu", "p = Mul(c, c) n = Mul(p, c) " + TANH.format("n") + "h = Mul(c, half) y = Mul(h, o)"),
    ("Gelu", "f = CastLike(inverse, c) d = Mul(c, f) e = Erf(d) o = Add(e, one) g = Mul(c, o) y = Mul(g, half)"),
    ("Swish", "s = Sigmoid(c) y = Mul(c, s)"),
    ("Swish", "s = Sigmoid(c) y = Mul(s, c)"),
    ("Swish", "m = Mul(c, each) s = Sigmoid(m) y = Mul(c, s)"),
    ("Swish", "n = Neg(c) e = Exp(n) o = Add(e, one) y = Div(c, o)"),
    ("QuickGelu", "q = Mul(quick, c) s = Sigmoid(q) y = Mul(c, s)"),
    ("HardSwish", "a = Add(c, three) r = Clip(a, zero, six) m = Mul(c, r) y = Div(m, six)"),
    ("HardSwish", "a = Add(c, three) r = Clip(a, zero, six) m = Mul(r, c) y = Mul(m, sixth)"),
    ("HardSwish", "a = Add(three, c) r = Clip(a, zero, six) d = Div(r, six) y = Mul(c, d)"),
    ("HardSwish", "a = Add(c, three) r = Relu(a) b = Min(r, six) d = Mul(b, sixth) y = Mul(d, c)"),
    ("HardSwish", "a = Add(c, three) r = Clip(a, zero, six) d = Mul(c, sixth) y = Mul(d, r)"),
    ("HardSwish", "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(c) y = Mul(c, h)"),
    ("Mish", "s = Softplus(c) t = Tanh(s) y = Mul(c, t)"),
    ("Mish", "e = Exp(c) o = Add(one, e) l = Log(o) t = Tanh(l) y = Mul(t, c)"),
    ("Softplus", "e = Exp(c) o = Add(e, one) y = Log(o)"),
    ("Softplus", "g = Greater(c, twenty) s = Softplus(c) y = Where(g, c, s)"),
    ("Softsign", "b = Abs(c) o = Add(b, one) y = Div(c, o)"),
    ("Relu", "y = Max(c, zero)"),
    ("Relu", "y = Max(zero, c)"),
    ("Relu", "g = Greater(c, zero) y = Where(g, c, zero)"),
    ("Clip", "m = Max(c, zero) y = Min(m, six)"),
    ("Clip", "r = Relu(c) y = Min(six, r)"),
    ("Clip", "y = Min(c, six)"),
    ("LeakyRelu", "m = Mul(c, tenth) y = Max(m, c)"),
    ("LeakyRelu", "r = Relu(c) n = Neg(c) q = Relu(n) m = Mul(q, down) y = Add(r, m)"),  # PReLU by tf2onnx
    ("Elu", "g = Greater(c, zero) e = Exp(c) s = Sub(e, one) y = Where(g, c, s)"),
    ("Tanhshrink", "t = Tanh(c) y = Sub(c, t)"),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "body"), FORMS)
def test_a_form_has_one_site_on_its_last_value(operator: str, body: str) -> None:
    found = surveyed(CONVOLVED.format(body), constants=CONSTANTS)
    assert operators(found) == [("y", operator)]
    assert not found.excluded


def test_a_hard_sigmoid_of_clip_is_a_gate() -> None:
    body = (
        "s = GlobalAveragePool(c) e = Conv(s, k) a = Add(e, three) r = Clip(a, zero, six) g = Div(r, six) y = Mul(c, g)"
    )
    found = surveyed(CONVOLVED.format(body), constants=CONSTANTS)
    assert not found.sites
    assert [(each.value, each.operator) for each in found.excluded] == [("g", "HardSigmoid")]


@pytest.mark.parametrize(
    "body",
    [
        "m = Mul(c, two) y = Add(m, one)",
        "m = Mul(c, c) y = Sqrt(m)",
        "y = Exp(c)",
        "d = Conv(c, k) s = Sigmoid(d) y = Mul(c, s)",
        "d = Conv(c, k) y = Max(c, d)",
        "s = Softmax<axis = 1>(c) y = Mul(s, c)",
        "b = Greater(c, zero) y = Cast<to = 1>(b)",
    ],
)
def test_what_is_no_activation_is_none(body: str) -> None:
    assert not surveyed(CONVOLVED.format(body), constants=CONSTANTS).sites


def test_values_that_others_read_too_stay_sites() -> None:
    """The Relu within a Relu6 that a second layer reads as it is."""
    found = surveyed(CONVOLVED.format("r = Relu(c) m = Min(r, six) d = Conv(r, k) y = Add(d, m)"), constants=CONSTANTS)
    assert operators(found) == [("r", "Relu"), ("m", "Clip")]


def test_what_only_hands_on_an_activation_is_no_second_one() -> None:
    body = CONVOLVED.format("r = Relu(c) i = Identity(r) d = Dropout(i) y = Cast<to = 1>(d)")
    assert operators(surveyed(body)) == [("r", "Relu")]


def test_a_scale_between_two_rectifiers_keeps_them_apart() -> None:
    body = CONVOLVED.format("r = Relu(c) m = Mul(r, each) a = Add(m, down) y = Relu(a)")
    assert operators(surveyed(body, constants=CONSTANTS)) == [("r", "Relu"), ("y", "Relu")]


@pytest.mark.parametrize("name", sorted({name for name, _ in CURVES}))
def test_every_curve_is_recognised_by_itself_and_at_half_precision(name: str) -> None:
    like = {"LeakyRelu": 0.2, "Elu": 0.7, "Celu": 0.5}
    x = GRID
    given = {
        "LeakyRelu": np.where(x > 0, x, like["LeakyRelu"] * x),
        "Elu": np.where(x > 0, x, like["Elu"] * np.expm1(x)),
        "Celu": np.where(x > 0, x, like["Celu"] * np.expm1(x / like["Celu"])),
        "Swish": x / (1 + np.exp(-1.2 * x)),
        "Softplus": np.logaddexp(0, 2 * x) / 2,
        "Clip": np.clip(x, -1, 1),
        "ThresholdedRelu": np.where(x > 1, x, -3.0),
        "Shrink": np.where(np.abs(x) > 0.5, x - np.sign(x) * 0.5, 0),
        "HardSigmoid": np.clip(0.2 * x + 0.5, 0, 1),
    }
    curve = given[name] if name in given else next(make(x) for each, make in CURVES if each == name)
    assert recognise(curve) == name
    assert recognise(curve.astype(np.float16).astype(np.float64)) == name
