"""Normalisations, as at inference."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Node, operator

TRAINING = "training_mode: its answers depend on the rest of the batch; export the model after model.eval()"


@operator("BatchNormalization", attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """`x` (N, C, ...) by the running mean and variance (C,), or (C, ...) where `spatial` is 0 below opset 9.

    In training mode it is by the mean and variance of `x` itself, which must be a weight: networks that standardise
    their weights write them so.
    """
    epsilon = node.attribute("epsilon", 1e-5)
    if node.attribute("training_mode", 0) and node.constant:
        return _by_its_own_statistics(node, x, scale, bias, mean, variance)
    if node.attribute("training_mode", 0) or node.outputs > 1:
        raise node.unsupported(TRAINING)
    if scale.dim() > 1 and not node.attribute("spatial", 1):
        return (x - mean) * (scale * torch.rsqrt(variance + epsilon)) + bias
    if 1 in (len(x), *x.shape[2:]):
        # PyTorch 2.13 confuses layouts that differ only by an axis of length 1, and then its gradient is wrong.
        factor = scale * torch.rsqrt(variance + epsilon)
        factor, shift = (each.view(-1, *[1] * (x.dim() - 2)).to(x.dtype) for each in (factor, bias - mean * factor))
        return x * factor + shift
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _by_its_own_statistics(node: Node, x: Tensor, scale: Tensor, bias: Tensor, *running: Tensor) -> tuple[Tensor, ...]:
    """The normalised x, and the running mean and variance (C,) after it."""
    momentum = node.attribute("momentum", 0.9)
    own_variance, own_mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
    result = F.batch_norm(x, own_mean, own_variance, scale, bias, eps=node.attribute("epsilon", 1e-5))
    after = (momentum * old + (1 - momentum) * own for old, own in zip(running, (own_mean, own_variance), strict=True))
    return (result, *after)[: node.outputs]


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
    stash = node.dtype(node.attribute("stash_type", 1))
    variance, mean = torch.var_mean(x.to(stash), tuple(range(-len(normalized), 0)), correction=0, keepdim=True)
    return (result, mean, (variance + epsilon).rsqrt())[: node.outputs]


@operator("RMSNormalization", attributes=("axis", "epsilon", "stash_type"))
@operator("SimplifiedLayerNormalization", attributes=("axis", "epsilon", "stash_type"))
@operator("SimplifiedLayerNormalization", attributes=("axis", "epsilon", "stash_type"), domain="com.microsoft")
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """`x` over its root mean square over the axes from `axis` on (arXiv:1910.07467), times the scale.

    ONNX Runtime calls it SimplifiedLayerNormalization, and has the inverse of that root as a second output.
    """
    wide = x.to(node.dtype(node.attribute("stash_type", 1)))
    axes = tuple(range(node.attribute("axis", -1) % x.dim(), x.dim()))
    inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + node.attribute("epsilon", 1e-5))
    return ((wide * inverse).to(x.dtype) * scale, inverse)[: node.outputs]


@operator("LpNormalization", attributes=("axis", "p"))
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """`x` over its p-norm along `axis`; zeros where that is 0."""
    axis, order = node.attribute("axis", -1), node.attribute("p", 2)
    norm = x.abs().sum(axis, keepdim=True) if order == 1 else finite(x.square().sum(axis, keepdim=True)).sqrt()
    return x / torch.where(norm == 0, 1, norm)


@operator("MeanVarianceNormalization", attributes=("axes",))
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """`x` less its mean over `axes`, over its deviation plus 1e-9."""
    axes: Sequence[int] = node.attribute("axes", (0, 2, 3))
    variance, mean = torch.var_mean(x, tuple(axes), correction=0, keepdim=True)
    return (x - mean) / (finite(variance).sqrt() + 1e-9)


@operator("LRN", attributes=("alpha", "beta", "bias", "size"))
def local_response(node: Node, x: Tensor) -> Tensor:
    """`x` (N, C, ...) over a power of the mean square of its `size` neighbouring channels."""
    size: int = node.required("size")
    squares = x.square().transpose(1, -1)
    window = F.pad(squares, ((size - 1) // 2, size // 2)).unfold(-1, size, 1).sum(-1).transpose(1, -1)
    scale = node.attribute("bias", 1.0) + node.attribute("alpha", 1e-4) / size * window
    return x / scale.pow(node.attribute("beta", 0.75))
