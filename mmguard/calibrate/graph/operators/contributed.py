"""Operators of the com.microsoft domain that ONNX Runtime's optimisers insert, computed in floating point."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.attention import join_heads, split_heads
from mmguard.calibrate.graph.operators.convolution import conv
from mmguard.calibrate.graph.operators.linear import gemm
from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.windows import ATTRIBUTES

MS = "com.microsoft"

_ACTIVATIONS: dict[str, Callable[[Tensor, list[float]], Tensor]] = {
    "": lambda x, parameters: x,
    "Relu": lambda x, parameters: F.relu(x),
    "Sigmoid": lambda x, parameters: torch.sigmoid(x),
    "Tanh": lambda x, parameters: torch.tanh(x),
    "LeakyRelu": lambda x, parameters: F.leaky_relu(x, parameters[0]),
    "Clip": lambda x, parameters: torch.clamp(x, parameters[0], parameters[1]),
    "HardSigmoid": lambda x, parameters: torch.clamp(parameters[0] * x + parameters[1], 0, 1),
}


def _activated(node: Node, x: Tensor, parameters: list[float]) -> Tensor:
    name = node.attribute("activation", "")
    if name not in _ACTIVATIONS:
        raise node.unsupported(f"activation {name!r} is not supported")
    return _ACTIVATIONS[name](x, parameters)


@operator("FusedConv", attributes=(*ATTRIBUTES, "activation", "activation_params", "group"), domain=MS)
def fused_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Conv, followed by the addition of an optional tensor, then by an activation."""
    result = conv(node, x, weight, bias)
    result = result if added is None else result + added
    return _activated(node, result, list(node.attribute("activation_params", ())))


@operator(
    "FusedGemm",
    attributes=(
        "activation",
        "activation_alpha",
        "activation_beta",
        "activation_gamma",
        "alpha",
        "beta",
        "transA",
        "transB",
    ),
    domain=MS,
)
def fused_gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Gemm, followed by an activation."""
    names = ("activation_alpha", "activation_beta")
    return _activated(node, gemm(node, a, b, c), [node.attributes[name] for name in names if name in node.attributes])


@operator("FusedMatMul", attributes=("alpha", "transA", "transB", "transBatchA", "transBatchB"), domain=MS)
@operator("TransposeMatMul", attributes=("alpha", "transA", "transB"), domain=MS)
def fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`alpha A B`. transA swaps the last two axes of A, and transBatchA moves axis 0 of A to axis -2; same for B."""
    a, b = (_transposed(node, x, side) for x, side in ((a, "A"), (b, "B")))
    alpha = node.attribute("alpha", 1.0)
    return a @ b if alpha == 1 else alpha * (a @ b)


def _transposed(node: Node, x: Tensor, side: str) -> Tensor:
    if node.attribute(f"transBatch{side}", 0):
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if node.attribute(f"trans{side}", 0) and x.dim() > 1 else x


@operator("Gelu", domain=MS)
def gelu(node: Node, x: Tensor) -> Tensor:
    """`x Φ(x)`, where Φ is the cumulative distribution function of the standard normal distribution."""
    return F.gelu(x)


@operator("BiasGelu", domain=MS)
def bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """Gelu(x + bias)."""
    return F.gelu(x + bias)


@operator("FastGelu", domain=MS)
def fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gelu(x + bias), approximated with tanh."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", attributes=("alpha",), domain=MS)
def quick_gelu(node: Node, x: Tensor) -> Tensor:
    """`x sigmoid(alpha x)`."""
    return x * torch.sigmoid(node.attribute("alpha", 1.702) * x)


@operator("SkipLayerNormalization", attributes=("epsilon",), domain=MS)
def skip_layer_normalization(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Normalise x + skip + bias over the last axis; return the result, mean, inverse standard deviation and sum."""
    total, epsilon = _total(x, skip, bias), node.attribute("epsilon", 1e-12)
    result = F.layer_norm(total, scale.shape, scale, shift, epsilon)
    if node.outputs == 1:
        return (result,)
    variance, mean = torch.var_mean(total, -1, correction=0, keepdim=True)
    return (result, mean, (variance + epsilon).rsqrt(), total)[: node.outputs]


@operator("SkipSimplifiedLayerNormalization", attributes=("epsilon",), domain=MS)
def skip_rms_normalization(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Divide the sum x + skip + bias by its RMS over the last axis; also return None, the inverse RMS and the sum."""
    total = _total(x, skip, bias)
    inverse = torch.rsqrt(total.square().mean(-1, keepdim=True) + node.attribute("epsilon", 1e-12))
    return (total * inverse * scale, None, inverse, total)[: node.outputs]


def _total(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    return x + skip if bias is None else x + skip + bias


@operator(
    "Attention", attributes=("mask_filter_value", "num_heads", "qkv_hidden_sizes", "scale", "unidirectional"), domain=MS
)
def attention(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Self-attention over x (N, L, E); a weight (E, 3 E) and a bias (3 E,) map x to queries, keys and values.

    A mask (N,) contains the number of valid keys of each sample. A mask (N, S) or (N, L, S) is 1 for each key that a
    query may attend to, and 0 for other keys.

    Returns:
        The result (N, L, E).
    """
    packed = F.linear(x, weight.T, bias)
    sizes = list(node.attribute("qkv_hidden_sizes", (packed.shape[-1] // 3,) * 3))
    heads: int = node.required("num_heads")
    query, key, value = (split_heads(part, heads) for part in packed.split(sizes, -1))
    scores = query @ key.transpose(-1, -2) * (node.attribute("scale", 0.0) or query.shape[-1] ** -0.5)
    if mask is not None:
        hidden = node.attribute("mask_filter_value", -10000.0)
        scores = scores + (1 - _attended(node, mask.to(x.device), len(x), scores).to(scores.dtype)) * hidden
    if node.attribute("unidirectional", 0):
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return join_heads(torch.softmax(scores, -1) @ value)


def _attended(node: Node, mask: Tensor, count: int, scores: Tensor) -> Tensor:
    if mask.dim() == 1 and len(mask) == count:
        return torch.arange(scores.shape[-1], device=mask.device) < mask.reshape(-1, 1, 1, 1)
    if mask.dim() in (2, 3) and mask.shape[-1] == scores.shape[-1]:
        return mask.reshape(count, 1, -1, scores.shape[-1])
    raise node.unsupported(f"a mask of shape {tuple(mask.shape)} is not supported")
