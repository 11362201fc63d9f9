"""Normalisations, as at inference."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.operators.registry import Node, operator


@operator("BatchNormalization", attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """`x` (N, C, ...) by the running mean and variance (C,)."""
    if node.attribute("training_mode", 0) or node.outputs > 1:
        raise node.unsupported("training_mode; export the model after model.eval()")
    if not node.attribute("spatial", 1):
        raise node.unsupported("spatial=0")
    return F.batch_norm(x, mean, variance, scale, bias, eps=node.attribute("epsilon", 1e-5))


@operator("InstanceNormalization", attributes=("epsilon",))
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`x` (N, C, ...), each channel of each sample by its own mean and variance; scale and bias (C,)."""
    return torch.group_norm(x, x.shape[1], scale, bias, node.attribute("epsilon", 1e-5))


@operator("GroupNormalization", attributes=("epsilon", "num_groups", "stash_type"))
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`x` (N, C, ...) by groups of channels; scale and bias (C,), one a group below opset 21."""
    groups: int = node.required("num_groups")
    if node.version < 21:
        scale, bias = (factor.repeat_interleave(x.shape[1] // groups) for factor in (scale, bias))
    return torch.group_norm(x, groups, scale, bias, node.attribute("epsilon", 1e-5))


@operator("LayerNormalization", attributes=("axis", "epsilon", "stash_type"))
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """`x` by its mean and variance over the axes from `axis` on; then that mean and the inverse deviation."""
    normalized: Sequence[int] = x.shape[node.attribute("axis", -1) :]
    epsilon = node.attribute("epsilon", 1e-5)
    if scale.shape == normalized and (bias is None or bias.shape == normalized):
        result = F.layer_norm(x, normalized, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, normalized, eps=epsilon) * scale
        result = result if bias is None else result + bias
    if node.outputs == 1:
        return (result,)
    variance, mean = torch.var_mean(x.float(), tuple(range(-len(normalized), 0)), correction=0, keepdim=True)
    return (result, mean, (variance + epsilon).rsqrt())[: node.outputs]


@operator("LRN", attributes=("alpha", "beta", "bias", "size"))
def local_response(node: Node, x: Tensor) -> Tensor:
    """`x` (N, C, ...) over a power of the mean square of its `size` neighbouring channels."""
    size: int = node.required("size")
    squares = x.square().transpose(1, -1)
    window = F.pad(squares, ((size - 1) // 2, size // 2)).unfold(-1, size, 1).sum(-1).transpose(1, -1)
    scale = node.attribute("bias", 1.0) + node.attribute("alpha", 1e-4) / size * window
    return x / scale.pow(node.attribute("beta", 0.75))
