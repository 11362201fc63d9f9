"""Draw nodes that are elementwise, reduce or normalise."""

import math

import numpy as np

from tests.calibrate.graph.drawn.draw import Draw, Drawn, Value, as_input, draws, subset

WHOLE = (np.int32, np.int64)


@draws("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "IsNaN", "Log")
@draws("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh")
@draws("Abs", "Neg", "HardSwish", "Mish", "Identity")
def unary(draw: Draw, operator: str, x: Value) -> Drawn | None:
    whole = x.array.dtype in WHOLE and operator in ("Abs", "Neg", "Sign")
    return Drawn(operator, [x]) if x.floats or whole or operator == "Identity" else None


@draws("Elu", "LeakyRelu", "Celu", "ThresholdedRelu", "Swish")
def with_alpha(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, alpha=draw.number(0.2, 1.5))) if x.floats else None


@draws("Selu")
def selu(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return (
        Drawn(operator, [x], subset(draw, alpha=draw.number(0.5, 2), gamma=draw.number(0.5, 2))) if x.floats else None
    )


@draws("HardSigmoid")
def hard_sigmoid(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, alpha=draw.number(0.1, 1), beta=draw.number(0, 1))) if x.floats else None


@draws("Shrink")
def shrink(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, bias=draw.number(0, 1), lambd=draw.number(0, 1))) if x.floats else None


@draws("Gelu")
def gelu(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, approximate=draw.one("tanh", "none"))) if x.floats else None


@draws("IsInf")
def is_inf(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    infinite = Drawn("Div", [x, np.zeros((), np.float32)])
    signs = subset(draw, detect_negative=draw.whole(0, 1), detect_positive=draw.whole(0, 1))
    return [infinite, Drawn(operator, [infinite], signs)] if x.floats else None


@draws("Add", "Sub", "Mul", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def binary(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if x.array.dtype not in (np.float32, np.int64):
        return None
    pair = [x, draw.partner(x)]
    return Drawn(operator, pair if draw.flag() else pair[::-1])


@draws("And", "Or", "Xor")
def logical(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x, draw.partner(x)]) if x.array.dtype == np.bool_ else None


@draws("Not")
def negation(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x]) if x.array.dtype == np.bool_ else None


@draws("Div")
def div(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if x.array.dtype not in (np.float32, np.int64):
        return None
    by = draw.constant(x, draw.broadcast(x.shape))
    return Drawn(operator, [x, np.where(np.abs(by) < 0.2, 1, by).astype(x.array.dtype)])


@draws("Mod")
def mod(draw: Draw, operator: str, x: Value) -> Drawn | None:
    by = draw.constant(x, draw.broadcast(x.shape))
    if x.floats:
        return Drawn(operator, [x, np.where(np.abs(by) < 0.2, 1, by).astype(np.float32)], {"fmod": 1})
    signed = np.where(draw.bools(*by.shape), by, -by).astype(by.dtype) if x.array.dtype in WHOLE else None
    return None if signed is None else Drawn(operator, [x, signed], subset(draw, fmod=draw.whole(0, 1)))


@draws("Pow")
def power(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats:
        return None
    whole = draw.one(np.int64, np.int32) if draw.opset >= 12 and draw.flag() else np.float32
    value = draw.one(2, 3) if whole != np.float32 else draw.one(2, 3, 0.5, -1)
    return Drawn(operator, [x, np.full(() if draw.flag() else draw.broadcast(x.shape), value, whole)])


@draws("Max", "Min", "Sum", "Mean")
def variadic(draw: Draw, operator: str, x: Value) -> Drawn | None:
    operands = [x, *(draw.partner(x) for _ in range(draw.whole(0, 2)))]
    return Drawn(operator, operands) if x.floats else None


@draws("Where")
def where(draw: Draw, operator: str, x: Value) -> Drawn:
    conditions = [v for v in draw.pool if v.array.dtype == np.bool_ and v.shape == x.shape]
    condition = draw.one(*conditions) if conditions else draw.bools(*draw.broadcast(x.shape))
    pair = [x, draw.partner(x)]
    return Drawn(operator, [condition, *(pair if draw.flag() else pair[::-1])])


@draws("Clip")
def clip(draw: Draw, operator: str, x: Value) -> Drawn | None:
    low, high = draw.number(-1, 0), draw.number(-0.2, 1)
    if not x.floats:
        return None
    if draw.opset < 11:
        return Drawn(operator, [x], subset(draw, min=low, max=high))
    limits = [np.float32(limit) if draw.flag() else None for limit in (low, high)]
    return Drawn(operator, [x, *(None if limit is None else np.asarray(limit) for limit in limits)])


@draws("PRelu")
def prelu(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x, draw.floats(*draw.broadcast(x.shape))]) if x.floats else None


@draws("Softmax", "LogSoftmax", "Hardmax")
def softmax(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, axis=draw.axis(x.dims))) if x.floats and x.dims else None


@draws("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
@draws("ReduceSum", "ReduceSumSquare")
def reduce(draw: Draw, operator: str, x: Value) -> Drawn | None:
    whole = x.array.dtype in WHOLE and operator != "ReduceProd"  # a product would overflow
    if not (x.floats or whole) or not x.dims:
        return None
    return _reduced(draw, operator, x.dims, x)


@draws("ReduceLogSum")
def reduce_log_sum(draw: Draw, operator: str, x: Value) -> list[Drawn]:
    if not x.floats or not x.dims:
        return []
    positive = Drawn("Abs", [x])  # a sum that cancels leaves rounding errors only, with an arbitrary logarithm
    return [positive, _reduced(draw, operator, x.dims, positive)]


def _reduced(draw: Draw, operator: str, dims: int, x: Value | Drawn) -> Drawn:
    axes, attributes = draw.axes(dims) if draw.flag() else None, subset(draw, keepdims=draw.whole(0, 1))
    if draw.opset < (13 if operator == "ReduceSum" else 18):
        return Drawn(operator, [x], attributes | ({} if axes is None else {"axes": axes}))
    attributes |= subset(draw, noop_with_empty_axes=draw.whole(0, 1))
    return Drawn(operator, [x, None if axes is None else as_input(axes)], attributes)


@draws("CumSum", "CumProd")
def cumulative(draw: Draw, operator: str, x: Value) -> Drawn | None:
    attributes = subset(draw, exclusive=draw.whole(0, 1), reverse=draw.whole(0, 1))
    return Drawn(operator, [x, np.array(draw.axis(x.dims))], attributes) if x.floats and x.dims else None


@draws("BatchNormalization")
def batch_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 2:
        return None
    c = x.shape[1]
    statistics = [draw.floats(c), draw.floats(c), draw.floats(c), draw.floats(c, low=0.1)]
    return Drawn(operator, [x, *statistics], subset(draw, epsilon=draw.number(1e-5, 0.1)))


@draws("InstanceNormalization")
def instance_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 3 or math.prod(x.shape[2:]) == 1:  # one number minus its mean is rounding error
        return None
    return Drawn(operator, [x, draw.floats(x.shape[1]), draw.floats(x.shape[1])], {"epsilon": 0.01})


@draws("GroupNormalization")
def group_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 3 or math.prod(x.shape[2:]) == 1:
        return None
    groups = draw.one(*(g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0))
    size = groups if draw.opset < 21 else x.shape[1]
    return Drawn(operator, [x, draw.floats(size), draw.floats(size)], {"num_groups": groups, "epsilon": 0.01})


@draws("LayerNormalization", "RMSNormalization")
def layer_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    axis = draw.axis(x.dims)
    factors = [draw.floats(*x.shape[axis:]) for _ in range(draw.whole(1, 2 if operator[0] == "L" else 1))]
    outputs = draw.one(1, 3) if operator[0] == "L" else 1
    return Drawn(operator, [x, *factors], {"axis": axis, "epsilon": 0.01}, outputs)


@draws("LpNormalization")
def lp_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    attributes = subset(draw, p=draw.one(1, 2)) | (subset(draw, axis=draw.axis(x.dims)) if x.dims else {})
    return Drawn(operator, [x], attributes) if x.floats and x.dims else None


@draws("MeanVarianceNormalization")
def mean_variance_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 2:
        return None
    axes = sorted(draw.permuted(x.dims)[: draw.whole(1, x.dims)])
    if x.array.var(axis=tuple(axes)).min() < 1e-3:  # ONNX adds 1e-9 to the deviation, ONNX Runtime divides 0 by 0
        return None
    return Drawn(operator, [x], {} if axes == [0, 2, 3] and draw.flag() else {"axes": axes})


@draws("LRN")
def local_response(draw: Draw, operator: str, x: Value) -> Drawn | None:
    attributes = subset(draw, alpha=draw.number(0.01, 1), beta=draw.number(0.3, 1), bias=draw.number(0.5, 2))
    return Drawn(operator, [x], attributes | {"size": draw.one(1, 3, 5)}) if x.floats and x.dims == 4 else None
