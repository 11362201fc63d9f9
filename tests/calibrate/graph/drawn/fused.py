"""Draw nodes that ONNX Runtime's optimisers write."""

from typing import Any

import numpy as np

from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value, draws, subset
from tests.calibrate.graph.drawn.images import kernel_of, window

MS = "com.microsoft"


@draws("Gelu", "QuickGelu", "FastGelu", "BiasGelu", domain=MS)
def gelu(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    biased = operator == "BiasGelu" or (operator == "FastGelu" and draw.flag())
    attributes = subset(draw, alpha=draw.number(0.5, 2)) if operator == "QuickGelu" else {}
    return Drawn(operator, [x, draw.floats(x.shape[-1])] if biased else [x], attributes, domain=MS)


@draws("FusedConv", domain=MS)
def fused_conv(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 4:
        return None
    kernel, out = kernel_of(draw, x), draw.whole(1, 2)
    operands: list[Any] = [x, draw.floats(out, x.shape[1], *kernel), draw.floats(out)]
    kinds: list[dict[str, Any]] = [{"activation": "Relu"}, {"activation": "Tanh"}, {"activation": "Sigmoid"}]
    kinds.append({"activation": "LeakyRelu", "activation_params": [0.2]})
    kinds.append({"activation": "Clip", "activation_params": [-0.5, 0.5]})
    kinds.append({"activation": "HardSigmoid", "activation_params": [0.3, 0.4]})
    return Drawn(operator, operands, window(draw, x, kernel, True) | draw.one(*kinds), domain=MS)


@draws("FusedGemm", domain=MS)
def fused_gemm(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 2:
        return None
    kinds: list[dict[str, Any]] = [{"activation": "Relu"}, {"activation": "LeakyRelu", "activation_alpha": 0.2}]
    return Drawn(operator, [x, draw.floats(x.shape[1], 3), draw.floats(3)], draw.one(*kinds), domain=MS)


@draws("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims < 2:
        return None
    trans_a, trans_b = draw.whole(0, 1), draw.whole(0, 1)
    inner, columns = x.shape[-2] if trans_a else x.shape[-1], draw.whole(1, 3)
    b = draw.floats(columns, inner) if trans_b else draw.floats(inner, columns)
    attributes = {"transA": trans_a, "transB": trans_b} | subset(draw, alpha=draw.number(0.5, 2))
    return Drawn(operator, [x, b], attributes, domain=MS)


@draws("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def skip_normalization(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 3:
        return None
    factors = [draw.floats(x.shape[-1]) for _ in range(draw.whole(1, 3 if operator == "SkipLayerNormalization" else 2))]
    return Drawn(operator, [x, draw.floats(1, *x.shape[1:]), *factors], {"epsilon": 0.01}, domain=MS)


@draws("SimplifiedLayerNormalization")
def simplified(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    return Drawn(operator, [x, draw.floats(x.shape[-1])], {"epsilon": 0.01, "axis": -1})


@draws("Attention", domain=MS)
def attention(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 3 or x.shape[2] % 2:
        return None
    n, length, width = x.shape
    masks: list[Array | None] = [None, draw.ints(n, low=1, high=length, dtype=np.int32)]
    keys = draw.ints(n, length, low=0, high=1, dtype=np.int32)
    keys[:, 0] = 1  # if all were hidden, adding -10,000 would leave the scores no digits
    masks.append(keys)
    attributes = {"num_heads": 2} | subset(draw, unidirectional=draw.whole(0, 1), scale=draw.number(0.1, 1))
    weights = [draw.floats(width, 3 * width), draw.floats(3 * width)]
    return Drawn(operator, [x, *weights, draw.one(*masks)], attributes, domain=MS)
