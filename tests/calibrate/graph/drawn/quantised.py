"""Draw nodes that quantise, and nodes of ai.onnx.ml."""

from typing import Any

import numpy as np

from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value, draws, subset

ML = "ai.onnx.ml"


def _parameters(draw: Draw, x: Value) -> tuple[list[Array], dict[str, Any]]:
    """Draw a scale and a zero point, for all of x or per index of an axis, and the attributes for it."""
    dtypes: list[type] = [np.int8, np.uint8, *([np.int16, np.uint16] if draw.opset >= 21 else [])]
    dtype = draw.one(*dtypes)
    per_axis = bool(x.dims) and draw.opset >= 13 and draw.flag()
    axis = draw.axis(x.dims) if per_axis else 0
    shape = (x.shape[axis],) if per_axis else ()
    limits = np.iinfo(dtype)
    zero = draw.ints(*shape, low=max(limits.min, -20), high=20, dtype=dtype)
    return [draw.floats(*shape, low=0.01, high=0.2) + np.float32(0.01), zero], {"axis": axis} if per_axis else {}


@draws("QuantizeLinear", "DequantizeLinear")
def quantise(draw: Draw, operator: str, x: Value) -> Drawn | list[Drawn] | None:
    if not x.floats:
        return None
    parameters, attributes = _parameters(draw, x)
    quantised = Drawn("QuantizeLinear", [x, *parameters], attributes)
    if operator == "QuantizeLinear":
        return quantised
    moved = draw.one([], [Drawn("Identity", [quantised])])
    return [quantised, *moved, Drawn(operator, [[quantised, *moved][-1], *parameters], attributes)]


@draws("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def quantise_contributed(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if not x.floats:
        return None
    parameters = [np.array(draw.number(0.01, 0.1), np.float32), draw.ints(low=0, high=900, dtype=np.uint16)]
    quantised = Drawn("QuantizeLinear", [x, *parameters], domain="com.microsoft")
    return [quantised, Drawn("DequantizeLinear", [quantised, *parameters], domain="com.microsoft")]


@draws("DynamicQuantizeLinear")
def dynamic(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], outputs=3) if x.floats else None


@draws("MatMulInteger")
def matmul_integer(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    """Draw a dynamically quantised linear layer."""
    if not x.floats or x.dims < 2:
        return None
    quantised = Drawn("DynamicQuantizeLinear", [x], outputs=3)
    columns = draw.whole(1, 3)
    weight = draw.ints(x.shape[-1], columns, low=-9, high=9, dtype=np.int8)
    zeros: list[Any] = [(quantised, 2), *draw.one([], [np.array(1, np.int8)])]
    product = Drawn(operator, [quantised, weight, *zeros])
    return [quantised, product, whole := Drawn("Cast", [product], {"to": 1}), Drawn("Mul", [whole, (quantised, 1)])]


@draws("ConvInteger")
def conv_integer(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if not x.floats or x.dims != 4 or min(x.shape[2:]) < 2:
        return None
    quantised = Drawn("DynamicQuantizeLinear", [x], outputs=3)
    weight = draw.ints(2, x.shape[1], 2, 2, low=0, high=9, dtype=np.uint8)
    zeros: list[Any] = [(quantised, 2), *draw.one([], [np.array(3, np.uint8)])]
    product = Drawn(operator, [quantised, weight, *zeros], subset(draw, pads=[1, 0, 0, 1]))
    return [quantised, product, Drawn("Cast", [product], {"to": 1})]


@draws("Scaler", domain=ML)
def scaler(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 2:
        return None
    size = draw.one(1, x.shape[1])
    attributes = {"offset": draw.floats(size).tolist(), "scale": draw.floats(size).tolist()}
    return Drawn(operator, [x], attributes, domain=ML)


@draws("Normalizer", domain=ML)
def normalizer(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], {"norm": draw.one("MAX", "L1", "L2")}, domain=ML) if x.floats and x.dims == 2 else None


@draws("Imputer", domain=ML)
def imputer(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 2:
        return None
    values = draw.floats(draw.one(1, x.shape[1])).tolist()
    attributes = {"imputed_value_floats": values, "replaced_value_float": draw.one(0.0, 0.5, float("nan"))}
    return Drawn(operator, [x], attributes, domain=ML)


@draws("ArrayFeatureExtractor", domain=ML)
def extractor(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or not x.dims:
        return None
    return Drawn(operator, [x, draw.ints(draw.whole(1, 3), low=0, high=x.shape[-1] - 1)], domain=ML)


@draws("Binarizer", domain=ML)
def binarizer(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, threshold=0.25), domain=ML) if x.floats and x.dims else None


@draws("FeatureVectorizer", domain=ML)
def vectorizer(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 2:
        return None
    return Drawn(operator, [x, x], {"inputdimensions": [x.shape[1]] * 2}, domain=ML)


@draws("LinearRegressor", domain=ML)
def regressor(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not x.floats or x.dims != 2:
        return None
    targets = draw.whole(1, 3)
    attributes: dict[str, Any] = {"coefficients": draw.floats(targets * x.shape[1]).tolist(), "targets": targets}
    attributes |= subset(draw, intercepts=draw.floats(targets).tolist())
    attributes |= subset(draw, post_transform=draw.one("NONE", "SOFTMAX", "LOGISTIC")) if targets > 1 else {}
    return Drawn(operator, [x], attributes, domain=ML)
