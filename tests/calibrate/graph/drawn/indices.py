"""Draw nodes that read or write elements at positions, or that find positions."""

import numpy as np

from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value, draws, subset


@draws("Gather")
def gather(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    axis = draw.axis(x.dims)
    shape = [draw.whole(1, 3) for _ in range(draw.whole(0, 2))]
    lowest = -x.shape[axis] if draw.opset >= 11 else 0
    dtype = draw.one(np.int64, np.int32)
    return Drawn(operator, [x, draw.ints(*shape, low=lowest, high=x.shape[axis] - 1, dtype=dtype)], {"axis": axis})


@draws("GatherElements")
def gather_elements(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    axis = draw.axis(x.dims)
    shape = [draw.whole(1, 3) if i == axis % x.dims else n for i, n in enumerate(x.shape)]
    return Drawn(operator, [x, draw.ints(*shape, low=-x.shape[axis], high=x.shape[axis] - 1)], {"axis": axis})


@draws("GatherND")
def gather_nd(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    batch = draw.whole(0, min(1, x.dims - 1)) if draw.opset >= 12 else 0
    draw.any_batch &= not batch  # unlike ONNX, ONNX Runtime accepts indices with another batch size than x
    depth = draw.whole(1, x.dims - batch)
    columns = [draw.ints(*x.shape[:batch], 2, low=-n, high=n - 1) for n in x.shape[batch : batch + depth]]
    return Drawn(operator, [x, np.stack(columns, -1)], {"batch_dims": batch} if batch else {})


@draws("Scatter", "ScatterElements")
def scatter_elements(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    axis = draw.axis(x.dims)
    at = np.argsort(draw.floats(*x.shape), axis=axis).astype(np.int64)  # each once, since their order is undefined
    at = at.take(range(draw.whole(1, x.shape[axis])), axis)
    since = {"add": 16, "mul": 16, "min": 18, "max": 18}
    kinds = [kind for kind, opset in since.items() if draw.opset >= opset]
    reduction = {"reduction": draw.one("none", *kinds)} if kinds and draw.flag() else {}
    return Drawn(operator, [x, at, draw.floats(*at.shape)], {"axis": axis} | reduction)


@draws("ScatterND")
def scatter_nd(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    depth = draw.whole(1, x.dims)
    places = np.stack(np.unravel_index(draw.permuted(int(np.prod(x.shape[:depth])))[:2], x.shape[:depth]), -1)
    since = {"add": 16, "mul": 16, "min": 18, "max": 18}
    kinds = [kind for kind, opset in since.items() if draw.opset >= opset]
    reduction = {"reduction": draw.one("none", *kinds)} if kinds and draw.flag() else {}
    return Drawn(operator, [x, places.astype(np.int64), draw.floats(len(places), *x.shape[depth:])], reduction)


@draws("TensorScatter")
def tensor_scatter(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 2:
        return None
    axis = draw.whole(1, x.dims - 1)
    shape = [draw.whole(1, n) if i == axis else n for i, n in enumerate(x.shape)]
    at = draw.ints(x.shape[0], low=0, high=x.shape[axis] - shape[axis]) if draw.flag() else None
    return Drawn(
        operator, [x, draw.floats(*shape), at], {"axis": axis} | subset(draw, mode=draw.one("linear", "circular"))
    )


@draws("OneHot")
def one_hot(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if not x.dims:
        return None
    best = Drawn("ArgMax", [x], {"axis": 0})
    values = draw.floats(2)
    depth = draw.one(np.array(3), np.array([4]), np.array(5, np.int32))
    made = Drawn(operator, [best, depth, values], subset(draw, axis=draw.axis(x.dims + 1, 9)))
    return [best, made] if x.floats else None


@draws("ArgMax", "ArgMin")
def arg(draw: Draw, operator: str, x: Value) -> Drawn | None:
    attributes = subset(draw, keepdims=draw.whole(0, 1)) | ({"axis": draw.axis(x.dims)} if x.dims else {})
    attributes |= subset(draw, select_last_index=draw.whole(0, 1)) if draw.opset >= 12 else {}
    return Drawn(operator, [x], attributes) if x.floats and x.dims else None


@draws("TopK")
def top_k(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    axis = draw.axis(x.dims)
    k, attributes = draw.whole(1, x.shape[axis]), {"axis": axis}
    if draw.opset < 10:
        return Drawn(operator, [x], attributes | {"k": k}, 2)
    attributes |= subset(draw, largest=draw.whole(0, 1)) if draw.opset >= 11 else {}
    return Drawn(operator, [x, np.array([k])], attributes, 2)


@draws("NonZero")
def non_zero(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x]) if x.dims else None


@draws("Unique")
def unique(draw: Draw, operator: str, x: Value) -> Drawn | None:
    attributes = subset(draw, sorted=draw.whole(0, 1)) | (subset(draw, axis=draw.axis(x.dims)) if x.dims else {})
    return Drawn(operator, [x], attributes, 4) if x.floats else None


@draws("Compress")
def compress(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    axis = draw.axis(x.dims)
    if draw.flag():
        return Drawn(operator, [x, draw.bools(x.shape[axis])], {"axis": axis})
    return Drawn(operator, [x, draw.bools(x.array.size)])


@draws("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot")
def bitwise(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    """Draw a bitwise node on x in uint8."""
    if not x.floats:
        return None
    whole = Drawn("Cast", [clipped := Drawn("Abs", [x])], {"to": 2})
    other = draw.ints(*draw.broadcast(x.shape), low=0, high=7, dtype=np.uint8)
    operands: list[Array | Drawn] = [whole] if operator == "BitwiseNot" else [whole, other]
    direction = {"direction": draw.one("LEFT", "RIGHT")} if operator == "BitShift" else {}
    return [clipped, whole, Drawn(operator, operands, direction)]


@draws("BitCast")
def bit_cast(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], {"to": 6}) if x.floats else None
