"""Draw nodes for matrix products, attention and signal transforms."""

from typing import Any

import numpy as np

from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value, draws, subset


@draws("MatMul")
def matmul(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    if x.dims > 1 and draw.flag():
        return Drawn(operator, [draw.floats(draw.whole(1, 4), x.shape[-2]), x])
    return Drawn(operator, [x, draw.floats(x.shape[-1], draw.whole(1, 4))])


@draws("Gemm")
def gemm(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 2:
        return None
    trans_a, trans_b, k = draw.whole(0, 1), draw.whole(0, 1), draw.whole(1, 4)
    m, j = x.shape[::-1] if trans_a else x.shape
    b = draw.floats(k, j) if trans_b else draw.floats(j, k)
    shapes: list[tuple[int, ...]] = [(k,), (1, k), (m, 1), (m, k), ()]
    c = [draw.floats(*draw.one(*shapes))] if draw.flag() or draw.opset < 11 else []
    factors = subset(draw, alpha=draw.number(0.5, 2), beta=draw.number(0.5, 2))
    return Drawn(operator, [x, b, *c], {"transA": trans_a, "transB": trans_b} | factors)


@draws("Einsum")
def einsum(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 2:
        return None
    letters = "abcde"[: x.dims]
    forms = [
        f"{letters},{letters[-1]}z->{letters[:-1]}z",
        f"{letters}->{letters[::-1]}",
        f"...{letters[-1]},{letters[-1]}z",
    ]
    equation = draw.one(*forms)
    return Drawn(operator, [x] + [draw.floats(x.shape[-1], 2)] * equation.count(","), {"equation": equation})


@draws("Det")
def det(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if not x.floats or x.dims < 2:
        return None
    square = Drawn("MatMul", [x, draw.floats(x.shape[-1], x.shape[-2])])
    return [
        square,
        regular := Drawn("Add", [square, 3 * np.eye(x.shape[-2], dtype=np.float32)]),
        Drawn(operator, [regular]),
    ]


def _heads(draw: Draw, x: Value) -> tuple[int, int] | None:
    """Draw the numbers of query heads and key heads of x (N, length, heads * size)."""
    if not x.floats or x.dims != 3 or x.shape[2] % 2:
        return None
    return draw.one((2, 2), (2, 1))


@draws("Attention")
def attention(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if (heads := _heads(draw, x)) is None:
        return None
    (n, length, width), shared = x.shape, heads[1]
    keys = draw.one(length, 3)
    key, value = draw.floats(n, keys, width // 2 * shared), draw.floats(n, keys, shared * 2)
    attributes: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": shared}
    attributes |= subset(draw, is_causal=draw.whole(0, 1), scale=draw.number(0.1, 1), softcap=draw.number(0.5, 3))
    masks: list[Array | None] = [None, draw.floats(length, keys), draw.floats(n, 1, length, keys)]
    mask = draw.one(*masks, draw.bools(length, keys) | (np.arange(keys) == 0))
    return Drawn(operator, [x, key, value, mask], attributes)


@draws("RotaryEmbedding")
def rotary_embedding(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims not in (3, 4) or x.shape[-1] % 4:
        return None
    packed = x.dims == 3
    attributes: dict[str, Any] = {"num_heads": 2} if packed else {}
    size = x.shape[-1] // 2 if packed else x.shape[-1]
    n, length = x.shape[0], x.shape[-2]
    attributes |= subset(draw, interleaved=draw.whole(0, 1))
    if draw.flag():
        tables = [draw.floats(n, length, size // 2), draw.floats(n, length, size // 2)]
        return Drawn(operator, [x, *tables], attributes)
    tables = [draw.floats(7, size // 2), draw.floats(7, size // 2)]
    return Drawn(operator, [x, *tables, draw.ints(n, length, low=0, high=6)], attributes)


@draws("DFT")
def dft(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 3 or x.shape[-1] not in (1, 2):
        return None
    axis = draw.whole(1, x.dims - 2)
    attributes = subset(draw, inverse=draw.whole(0, 1))
    attributes |= subset(draw, onesided=1) if x.shape[-1] == 1 and not attributes.get("inverse") else {}
    if draw.opset < 20:
        return Drawn(operator, [x, None], attributes | {"axis": axis})
    return Drawn(operator, [x, None, np.array(axis)], attributes)


@draws("STFT")
def stft(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 3 or x.shape[2] != 1:
        return None
    size = draw.whole(1, x.shape[1])
    return Drawn(operator, [x, np.array(draw.whole(1, 2)), draw.floats(size), np.array(size)], {"onesided": 1})


@draws("HannWindow", "HammingWindow", "BlackmanWindow")
def window(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if not x.floats or not x.dims or x.shape[-1] < 2:
        return None
    made = Drawn(operator, [np.array(x.shape[-1])], subset(draw, periodic=draw.whole(0, 1)))
    return [made, Drawn("Mul", [x, made])]


@draws("MelWeightMatrix")
def mel_weights(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if not x.floats or not x.dims:
        return None
    limits = [np.array(low, np.float32) for low in (draw.number(0, 100), draw.number(2000, 4000))]
    length = 2 * (x.shape[-1] - 1)
    if not length:
        return None
    made = Drawn(operator, [np.array(draw.whole(1, 4)), np.array(length), np.array(8192), *limits])
    return [made, Drawn("MatMul", [x, made])]
