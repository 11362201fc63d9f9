"""Draw nodes that change shapes, move elements, or compute values from shapes."""

from itertools import pairwise

import numpy as np
from onnx import TensorProto

from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value, as_input, draws, subset


@draws("Shape")
def shape(draw: Draw, operator: str, x: Value) -> Drawn:
    ends = subset(draw, start=draw.whole(-2, 2), end=draw.whole(-2, 3)) if draw.opset >= 15 else {}
    return Drawn(operator, [x], ends)


@draws("Size")
def size(draw: Draw, operator: str, x: Value) -> Drawn:
    return Drawn(operator, [x])


@draws("Reshape")
def reshape(draw: Draw, operator: str, x: Value) -> Drawn:
    lengths = [n for n in x.shape if n != 1] or [1]
    target = [x.shape[0] if x.dims else 1, -1] if draw.flag() else [*(1,) * draw.whole(0, 1), *lengths[:-1], -1]
    if x.dims and draw.flag():
        target = [0, -1]
    return Drawn(operator, [x, as_input(target)], subset(draw, allowzero=0) if draw.opset >= 14 else {})


@draws("Flatten")
def flatten(draw: Draw, operator: str, x: Value) -> Drawn:
    return Drawn(operator, [x], subset(draw, axis=draw.whole(-x.dims if draw.opset >= 11 else 0, x.dims)))


@draws("Transpose")
def transpose(draw: Draw, operator: str, x: Value) -> Drawn:
    return Drawn(operator, [x], subset(draw, perm=draw.permuted(x.dims)) if x.dims else {})


@draws("Squeeze")
def squeeze(draw: Draw, operator: str, x: Value) -> Drawn:
    ones = [axis for axis, length in enumerate(x.shape) if length == 1]
    return _with_axes(draw, operator, x, ones if draw.flag() and ones else None)


@draws("Unsqueeze")
def unsqueeze(draw: Draw, operator: str, x: Value) -> Drawn:
    count = draw.whole(1, 2)
    return _with_axes(draw, operator, x, draw.permuted(x.dims + count)[:count])


def _with_axes(draw: Draw, operator: str, x: Value, axes: list[int] | None) -> Drawn:
    if axes is None:
        return Drawn(operator, [x])
    return Drawn(operator, [x, as_input(axes)]) if draw.opset >= 13 else Drawn(operator, [x], {"axes": sorted(axes)})


@draws("Expand")
def expand(draw: Draw, operator: str, x: Value) -> Drawn:
    grown = [draw.whole(1, 3) if n == 1 else draw.one(1, n) for n in x.shape]
    return Drawn(operator, [x, as_input([draw.whole(1, 2)] * draw.whole(0, 1) + grown)])


@draws("Tile")
def tile(draw: Draw, operator: str, x: Value) -> Drawn:
    return Drawn(operator, [x, as_input([draw.whole(1, 2) for _ in x.shape])])


@draws("Concat")
def concat(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    axis = draw.axis(x.dims)
    grown = [draw.whole(1, 3) if i == axis % x.dims else n for i, n in enumerate(x.shape)]
    others: list[list[Value | Array]] = [[x], [draw.constant(x, grown)], [draw.constant(x, grown), x]]
    return Drawn(operator, [x, *draw.one(*others)], {"axis": axis})


@draws("Split")
def split(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    axis = draw.axis(x.dims)
    length = x.shape[axis]
    lengths = _parts(draw, length)
    if draw.opset >= 18 and draw.flag():
        return Drawn(operator, [x], {"axis": axis, "num_outputs": len(lengths)}, len(lengths))
    if length % len(lengths) == 0 and draw.opset < 18 and draw.flag():
        return Drawn(operator, [x], {"axis": axis}, len(lengths))
    if draw.opset < 13:
        return Drawn(operator, [x], {"axis": axis, "split": lengths}, len(lengths))
    return Drawn(operator, [x, as_input(lengths)], {"axis": axis}, len(lengths))


def _parts(draw: Draw, length: int) -> list[int]:
    cuts = sorted(draw.permuted(length - 1)[: draw.whole(0, 2)])
    return [b - a for a, b in pairwise([0, *(cut + 1 for cut in cuts), length])]


@draws("Slice")
def slices(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.dims:
        return None
    axes = sorted(draw.permuted(x.dims)[: draw.whole(1, x.dims)])
    if draw.opset >= 10 and draw.flag():
        steps = [draw.one(1, 2, -1, -2) for _ in axes]
        starts = [draw.one(0, -9) if step > 0 else draw.one(-1, 99) for step in steps]
        ends = [draw.one(99, 2**31) if step > 0 else -(2**31) for step in steps]
        return Drawn(operator, [x, as_input(starts), as_input(ends), as_input(axes), as_input(steps)])
    starts = [draw.whole(-n, n - 1) for n in (x.shape[axis] for axis in axes)]
    ends = [start % x.shape[axis] + 1 + draw.whole(0, 3) for axis, start in zip(axes, starts, strict=True)]
    if draw.opset < 10:
        return Drawn(operator, [x], {"axes": axes, "starts": starts, "ends": ends})
    return Drawn(operator, [x, as_input(starts), as_input(ends), as_input(axes)])


@draws("Pad")
def pad(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    mode = draw.one("constant", "reflect", "edge", *(["wrap"] if draw.opset >= 19 else []))
    least = -1 if mode == "constant" else 0
    widths = [draw.whole(least if n > 2 else 0, min(2, n - 1)) for n in x.shape * 2]
    if draw.opset < 11:
        return Drawn(operator, [x], {"pads": widths} | subset(draw, mode=mode, value=draw.number(-1, 1)))
    fill = np.array(draw.number(-1, 1), np.float32) if mode == "constant" and draw.flag() else None
    if draw.opset < 18 or draw.flag():
        return Drawn(operator, [x, as_input(widths), fill], {"mode": mode})
    axes = draw.axes(x.dims)
    chosen = [widths[axis % x.dims + side] for side in (0, x.dims) for axis in axes]
    return Drawn(operator, [x, as_input(chosen), fill, as_input(axes)], {"mode": mode})


@draws("DepthToSpace")
def depth_to_space(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 4 or x.shape[1] % 4:
        return None
    return Drawn(
        operator, [x], {"blocksize": 2} | (subset(draw, mode=draw.one("DCR", "CRD")) if draw.opset > 10 else {})
    )


@draws("SpaceToDepth")
def space_to_depth(draw: Draw, operator: str, x: Value) -> Drawn | None:
    blocks = [b for b in (1, 2, 3) if x.dims == 4 and x.shape[2] % b == 0 and x.shape[3] % b == 0]
    return Drawn(operator, [x], {"blocksize": draw.one(*blocks)}) if x.floats and blocks else None


@draws("CenterCropPad")
def center_crop_pad(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    axes = draw.axes(x.dims)
    return Drawn(operator, [x, as_input([draw.whole(1, 6) for _ in axes])], {"axes": axes})


@draws("Trilu")
@draws("Trilu", domain="com.microsoft")
def trilu(draw: Draw, operator: str, x: Value) -> Drawn | None:
    k: Array | None = np.array(draw.whole(-2, 2)) if draw.flag() else None
    return Drawn(operator, [x, k], subset(draw, upper=draw.whole(0, 1))) if x.floats and x.dims >= 2 else None


@draws("EyeLike")
def eye_like(draw: Draw, operator: str, x: Value) -> Drawn | None:
    attributes = subset(draw, k=draw.whole(-2, 2), dtype=draw.one(TensorProto.FLOAT, TensorProto.INT64))
    return Drawn(operator, [x], attributes) if x.dims == 2 else None


@draws("ReverseSequence")
def reverse_sequence(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 2:
        return None
    batch = draw.whole(0, 1)
    lengths = draw.ints(x.shape[batch], low=0, high=x.shape[1 - batch])
    return Drawn(operator, [x, lengths], {"batch_axis": batch, "time_axis": 1 - batch})


@draws("Cast")
def cast(draw: Draw, operator: str, x: Value) -> Drawn:
    return Drawn(operator, [x], {"to": draw.one(TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL)})


@draws("CastLike")
def cast_like(draw: Draw, operator: str, x: Value) -> Drawn:
    return Drawn(operator, [x, draw.one(draw.floats(1), draw.ints(1), draw.bools(1))])


@draws("ConstantOfShape", "Range", "Constant")
def made(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    """Draw values that are computed from the shape of x and combined with x."""
    if not x.floats or not x.dims:
        return None
    if operator == "Constant":
        return [one := Drawn("Constant", [], {"value_float": 0.5}), Drawn("Mul", [x, one])] if draw.opset > 11 else None
    shape = Drawn("Shape", [x])
    if operator == "ConstantOfShape":
        return [shape, filled := Drawn(operator, [shape]), Drawn("Add", [x, filled])]
    length = Drawn("Gather", [shape, np.array(x.dims - 1)], {"axis": 0})
    counted = Drawn(operator, [np.array(0), length, np.array(1)])
    return [shape, length, counted, floats := Drawn("Cast", [counted], {"to": 1}), Drawn("Add", [x, floats])]


@draws("Dropout")
def dropout(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x]) if x.floats else None


@draws("SequenceConstruct", "SequenceAt", "SequenceInsert", "SequenceErase", "SequenceLength", "ConcatFromSequence")
@draws("SequenceEmpty", "SplitToSequence")
def sequence(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    """Draw a sequence that is built, changed and read."""
    if not x.floats or not x.dims:
        return None
    axis = draw.axis(x.dims)
    made = draw.one(Drawn("SequenceConstruct", [x, x]), _split(draw, x, axis))
    nodes = [Drawn("SequenceEmpty", []), made] if draw.flag() else [made]
    if nodes[0].operator == "SequenceEmpty" and draw.flag():
        nodes = [nodes[0], Drawn("SequenceInsert", [nodes[0], x])]
    if draw.flag():
        nodes.append(Drawn("SequenceInsert", [nodes[-1], x, np.array(0)] if draw.flag() else [nodes[-1], x]))
        if draw.flag():
            nodes.append(Drawn("SequenceErase", [nodes[-1], np.array(draw.one(0, -1))] if draw.flag() else [nodes[-1]]))
    joined = {"axis": axis} | ({"new_axis": 1} if made.operator != "SplitToSequence" and draw.flag() else {})
    last = draw.one(
        Drawn("ConcatFromSequence", [nodes[-1]], joined),
        Drawn("SequenceLength", [nodes[-1]]),
        Drawn("SequenceAt", [nodes[-1], np.array(draw.one(0, -1))]),
    )
    return [*nodes, last]


def _split(draw: Draw, x: Value, axis: int) -> Drawn:
    lengths: list[Array | None] = [None, np.array(1), np.array(2), as_input(_parts(draw, x.shape[axis]))]
    parts = draw.one(*lengths)
    # With given lengths, ONNX ignores keepdims; ONNX Runtime does not if they are a single number.
    attributes = {"axis": axis} | (subset(draw, keepdims=draw.whole(0, 1)) if parts is None else {})
    return Drawn("SplitToSequence", [x, parts], attributes)


@draws("Optional", "OptionalGetElement", "OptionalHasElement")
def optional(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    wrapped = Drawn("Optional", [x])
    return [wrapped, Drawn("OptionalGetElement" if operator == "Optional" else operator, [wrapped])]
