"""Normalisation layers in inference mode."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Node, operator

TRAINING = (
    "training_mode is set, so the answer to an input depends on the other inputs in its batch; call model.eval() "
    "before exporting the model"
)


@operator("BatchNormalization", attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """Normalise x (N, C, ...) by the running mean and variance (C,), or (C, ...) if `spatial` is 0 (below opset 9).

    In training mode, x must be constant, and is normalised by its own mean and variance. Networks that standardise
    their weights are exported in this form.

    Returns:
        The normalised x; in training mode also the new running mean and variance, if the node has these outputs.
    """
    epsilon = node.attribute("epsilon", 1e-5)
    if node.attribute("training_mode", 0) and node.constant:
        return _by_its_own_statistics(node, x, scale, bias, mean, variance)
    if node.attribute("training_mode", 0) or node.outputs > 1:
        raise node.unsupported(TRAINING)
    if scale.dim() > 1 and not node.attribute("spatial", 1):
        return (x - mean) * (scale * torch.rsqrt(variance + epsilon)) + bias
    if 1 in (len(x), *x.shape[2:]):
        # PyTorch 2.13 confuses memory layouts that differ only in an axis of length 1, and returns a wrong gradient.
        factor = scale * torch.rsqrt(variance + epsilon)
        factor, shift = (each.view(-1, *[1] * (x.dim() - 2)).to(x.dtype) for each in (factor, bias - mean * factor))
        return x * factor + shift
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _by_its_own_statistics(node: Node, x: Tensor, scale: Tensor, bias: Tensor, *running: Tensor) -> tuple[Tensor, ...]:
    """Return x normalised by its own mean and variance, and the updated running mean and variance (C,)."""
    momentum = node.attribute("momentum", 0.9)
    own_variance, own_mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
    result = F.batch_norm(x, own_mean, own_variance, scale, bias, eps=node.attribute("epsilon", 1e-5))
    after = (momentum * old + (1 - momentum) * own for old, own in zip(running, (own_mean, own_variance), strict=True))
    return (result, *after)[: node.outputs]


@operator("InstanceNormalization", attributes=("epsilon",))
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise each channel of each sample of x (N, C, ...) by its own mean and variance; scale and bias are (C,)."""
    return torch.group_norm(x, x.shape[1], scale, bias, node.attribute("epsilon", 1e-5))


@operator("GroupNormalization", attributes=("epsilon", "num_groups", "stash_type"))
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise each group of channels of x (N, C, ...); scale and bias are (C,), or (groups,) below opset 21."""
    groups: int = node.required("num_groups")
    if node.version < 21:
        scale, bias = (factor.repeat_interleave(x.shape[1] // groups) for factor in (scale, bias))
    return torch.group_norm(x, groups, scale, bias, node.attribute("epsilon", 1e-5))


@operator("LayerNormalization", attributes=("axis", "epsilon", "stash_type"))
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Normalise x over `axis` and all later axes; the mean and the inverse standard deviation are optional outputs."""
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
    """Divide x by its root mean square over `axis` and all later axes, then multiply by the scale (arXiv:1910.07467).

    In ONNX Runtime, this operator is called SimplifiedLayerNormalization and also returns the inverse root mean square.

    Returns:
        The normalised x, and the inverse root mean square if the node has a second output.
    """
    wide = x.to(node.dtype(node.attribute("stash_type", 1)))
    axes = tuple(range(node.attribute("axis", -1) % x.dim(), x.dim()))
    inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + node.attribute("epsilon", 1e-5))
    return ((wide * inverse).to(x.dtype) * scale, inverse)[: node.outputs]


@operator("LpNormalization", attributes=("axis", "p"))
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """`x` divided by its p-norm along `axis`, or 0 where the norm is 0."""
    axis, order = node.attribute("axis", -1), node.attribute("p", 2)
    norm = x.abs().sum(axis, keepdim=True) if order == 1 else finite(x.square().sum(axis, keepdim=True)).sqrt()
    return x / torch.where(norm == 0, 1, norm)


@operator("MeanVarianceNormalization", attributes=("axes",))
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """`x` minus the mean of x over `axes`, divided by the standard deviation of x plus 1e-9."""
    axes: Sequence[int] = node.attribute("axes", (0, 2, 3))
    variance, mean = torch.var_mean(x, tuple(axes), correction=0, keepdim=True)
    return (x - mean) / (finite(variance).sqrt() + 1e-9)


@operator("LRN", attributes=("alpha", "beta", "bias", "size"))
def local_response(node: Node, x: Tensor) -> Tensor:
    """`x / (bias + alpha m)^beta`, where m is the mean square of `size` neighbouring channels of x (N, C, ...)."""
    size: int = node.required("size")
    squares = x.square().transpose(1, -1)
    window = F.pad(squares, ((size - 1) // 2, size // 2)).unfold(-1, size, 1).sum(-1).transpose(1, -1)
    scale = node.attribute("bias", 1.0) + node.attribute("alpha", 1e-4) / size * window
    return x / scale.pow(node.attribute("beta", 0.75))
