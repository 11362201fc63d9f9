"""ONNX operators as differentiable PyTorch functions, by https://onnx.ai/onnx/operators/."""

from mmguard.calibrate.operators import (
    activation,
    constant,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    reduction,
    resize,
    shape,
)
from mmguard.calibrate.operators.registry import OPERATORS, Node, Operator, operator

__all__ = [
    "OPERATORS",
    "Node",
    "Operator",
    "activation",
    "constant",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "operator",
    "pooling",
    "reduction",
    "resize",
    "shape",
]
