"""Activation functions; all of them are elementwise except Softmax and LogSoftmax."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import aligned


@operator("Relu")
def relu(node: Node, x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


@operator("LeakyRelu", attributes=("alpha",))
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """`x` if x > 0, else `alpha x`."""
    return F.leaky_relu(x, node.attribute("alpha", 0.01))


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """`x` if x > 0, else `slope x`; the slope broadcasts to the shape of x."""
    return torch.where(x > 0, x, slope * x)


@operator("ThresholdedRelu", attributes=("alpha",))
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """`x` if x > alpha, else 0."""
    return torch.where(x > node.attribute("alpha", 1.0), x, 0.0)


@operator("Elu", attributes=("alpha",))
def elu(node: Node, x: Tensor) -> Tensor:
    """`x` if x > 0, else `alpha (exp(x) - 1)`."""
    return F.elu(x, node.attribute("alpha", 1.0))


@operator("Celu", attributes=("alpha",))
def celu(node: Node, x: Tensor) -> Tensor:
    """`x` if x > 0, else `alpha (exp(x / alpha) - 1)`."""
    return F.celu(x, node.attribute("alpha", 1.0))


@operator("Selu", attributes=("alpha", "gamma"))
def selu(node: Node, x: Tensor) -> Tensor:
    """`gamma` times Elu(x); the defaults are the constants of the SELU paper, rounded to float32 as in ONNX."""
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    return node.attribute("gamma", 1.05070102214813232421875) * F.elu(x, alpha)


@operator("Sigmoid")
def sigmoid(node: Node, x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operator("Tanh")
def tanh(node: Node, x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


@operator("Softplus")
def softplus(node: Node, x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return F.softplus(x)


@operator("Softsign")
def softsign(node: Node, x: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return F.softsign(x)


@operator("Gelu", attributes=("approximate",))
def gelu(node: Node, x: Tensor) -> Tensor:
    """`x Φ(x)`, where Φ is the standard normal CDF, computed exactly or approximated with tanh."""
    return F.gelu(x, approximate=node.attribute("approximate", "none"))


@operator("Mish")
def mish(node: Node, x: Tensor) -> Tensor:
    """`x tanh(softplus(x))`."""
    return F.mish(x)


@operator("Swish", attributes=("alpha",))
def swish(node: Node, x: Tensor) -> Tensor:
    """`x sigmoid(alpha x)`, which is SiLU if alpha is 1."""
    alpha = node.attribute("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@operator("HardSigmoid", attributes=("alpha", "beta"))
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """`alpha x + beta`, clipped to [0, 1]."""
    return torch.clamp(node.attribute("alpha", 0.2) * x + node.attribute("beta", 0.5), 0, 1)


@operator("HardSwish")
def hard_swish(node: Node, x: Tensor) -> Tensor:
    """`x` times HardSigmoid(x), with alpha = 1/6 and beta = 1/2."""
    return F.hardswish(x)


@operator("Clip", attributes=("min", "max"))
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip x to [low, high]. The optional limits are attributes below opset 11, and scalar inputs from opset 11 on."""
    if node.version < 11:
        return torch.clamp(x, node.attribute("min", -torch.inf), node.attribute("max", torch.inf))
    limits = [limit for limit in (low, high) if limit is not None]
    if all(limit.is_cpu and not limit.requires_grad for limit in limits):
        # One PyTorch kernel is enough, and reading the limits, which are on the CPU, does not synchronise with the GPU.
        numbers = [None if limit is None else limit.item() for limit in (low, high)]
        return torch.clamp(x, *numbers) if limits else x
    x = x if low is None else torch.maximum(*aligned(x, low))
    return x if high is None else torch.minimum(*aligned(x, high))


@operator("Softmax", attributes=("axis",))
def softmax(node: Node, x: Tensor) -> Tensor:
    """`exp(x)` divided by the sum of exp(x) along `axis`; below opset 13, the sum is over `axis` and all later axes."""
    return _along_axis(node, F.softmax, finite(x))


@operator("LogSoftmax", attributes=("axis",))
def log_softmax(node: Node, x: Tensor) -> Tensor:
    """Logarithm of the softmax."""
    return _along_axis(node, F.log_softmax, finite(x))


def _along_axis(node: Node, function: Callable[..., Tensor], x: Tensor) -> Tensor:
    flat = x.flatten(node.attribute("axis", 1)) if node.version < 13 else x
    result: Tensor = function(flat, -1 if node.version < 13 else node.attribute("axis", -1))
    return result.reshape(x.shape)


@operator("Shrink", attributes=("bias", "lambd"))
def shrink(node: Node, x: Tensor) -> Tensor:
    """0 if |x| is at most `lambd`; otherwise, x moved towards 0 by `bias`."""
    threshold, bias = node.attribute("lambd", 0.5), node.attribute("bias", 0.0)
    return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, 0)).to(x.dtype)


@operator("SwiGLU", attributes=("alpha",))
def swiglu(node: Node, gate: Tensor, x: Tensor) -> Tensor:
    """`x` times Swish(gate)."""
    return swish(node, gate) * x
