"""Operators of the ai.onnx.ml domain that prepare a network's input features or select its output labels."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Node, operator

ML = "ai.onnx.ml"


def _floats(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else x.float()


@operator("Scaler", attributes=("offset", "scale"), domain=ML)
def scaler(node: Node, x: Tensor) -> Tensor:
    """`(x - offset) * scale` in float32; offset and scale are each a single number or one number per feature."""
    offset, scale = (x.new_tensor(node.required(name), dtype=torch.float32) for name in ("offset", "scale"))
    return (_floats(x) - offset) * scale


@operator("Normalizer", attributes=("norm",), domain=ML)
def normalizer(node: Node, x: Tensor) -> Tensor:
    """Divide each row of x by the maximum, L1 norm or L2 norm of the row, in float32; rows of zeros do not change."""
    x, norm = _floats(x), node.attribute("norm", "MAX")
    if norm not in ("MAX", "L1", "L2"):
        raise node.unsupported(f"norm {norm!r} is not supported")
    if norm == "MAX":
        size = x.amax(-1, keepdim=True)
    else:
        size = x.abs().sum(-1, keepdim=True) if norm == "L1" else finite(x.square().sum(-1, keepdim=True)).sqrt()
    return x / torch.where(size == 0, 1, size)


@operator(
    "Imputer",
    attributes=("imputed_value_floats", "imputed_value_int64s", "replaced_value_float", "replaced_value_int64"),
    domain=ML,
)
def imputer(node: Node, x: Tensor) -> Tensor:
    """Replace elements of x that equal a given value (possibly NaN) by one number, or by one number per feature."""
    whole = not x.is_floating_point()
    old = node.attribute("replaced_value_int64", 0) if whole else node.attribute("replaced_value_float", 0.0)
    new = x.new_tensor(node.required("imputed_value_int64s" if whole else "imputed_value_floats"))
    return torch.where(torch.isnan(x) if old != old else x == old, new, x)


@operator("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(node: Node, x: Tensor, positions: Tensor) -> Tensor:
    """Elements of x at the given positions along the last axis."""
    taken = x.index_select(-1, positions.reshape(-1).to(x.device))
    return taken.reshape(1, -1) if x.dim() == 1 else taken


@operator("Binarizer", attributes=("threshold",), domain=ML)
def binarizer(node: Node, x: Tensor) -> Tensor:
    """1 if x is above the threshold, else 0."""
    return (x > node.attribute("threshold", 0.0)).to(x.dtype)


@operator("FeatureVectorizer", attributes=("inputdimensions",), domain=ML)
def feature_vectorizer(node: Node, *features: Tensor) -> Tensor:
    """All features (N, n) concatenated along the last axis, in float32."""
    return torch.cat([_floats(feature) for feature in features], -1)


_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda scores: scores,
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX": lambda scores: torch.softmax(scores, -1),
}


@operator("LinearRegressor", attributes=("coefficients", "intercepts", "post_transform", "targets"), domain=ML)
def linear_regressor(node: Node, x: Tensor) -> Tensor:
    """`x` (N, F) times the coefficients (targets, F), plus the intercepts (targets,), in float32."""
    transform = node.attribute("post_transform", "NONE")
    if transform not in _TRANSFORMS:
        raise node.unsupported(f"post_transform {transform!r} is not supported")
    weights = x.new_tensor(node.required("coefficients"), dtype=torch.float32)
    scores = _floats(x) @ weights.reshape(node.attribute("targets", 1), -1).T
    return _TRANSFORMS[transform](scores + scores.new_tensor(node.attribute("intercepts", (0.0,))))
