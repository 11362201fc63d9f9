"""Fuse batch norm into the preceding convolution, which saves a third of the running time of a residual network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmguard.calibrate.graph.step import Step


def fuse_batch_norm(
    steps: Sequence[Step], constants: Mapping[str, Tensor], output: str
) -> tuple[list[Step], dict[str, Tensor]]:
    """Fuse each batch norm into the preceding convolution, unless another step reads the convolution's output.

    The output of the convolution itself is no longer computed. This output is never a clip site, because a clip site is
    the output of an activation function.

    Args:
        steps: steps in execution order.
        constants: tensors that do not depend on any input, by ONNX name.
        output: ONNX name of the value that the steps compute.

    Returns:
        The remaining steps, and the constants including the weights and biases of the fused convolutions.
    """
    readers = Counter(name for step in steps for name in step.inputs)
    readers[output] += 1
    known = dict(constants)
    makers: dict[str, Step] = {}
    replaced: set[str] = set()
    kept = []
    for step in steps:
        source = step.inputs[0] if step.inputs else ""
        if readers[source] == 1 and source in makers and _can_fuse(makers[source], step, constants):
            weight, bias = (f"{part} of {step.outputs[0]}, fused" for part in ("weight", "bias"))
            known[weight], known[bias] = _fused(makers[source], step, constants)
            step = replace(makers[source], inputs=(makers[source].inputs[0], weight, bias), outputs=step.outputs)
            replaced.add(source)
        makers |= dict.fromkeys(step.outputs, step)
        kept.append(step)
    return [step for step in kept if replaced.isdisjoint(step.outputs)], known


def _can_fuse(convolution: Step, batch_norm: Step, constants: Mapping[str, Tensor]) -> bool:
    node = batch_norm.node
    return (
        (convolution.node.operator, node.operator) == ("Conv", "BatchNormalization")
        and not node.attribute("training_mode", 0)
        and bool(node.attribute("spatial", 1))
        and node.outputs == 1
        and all(name in constants for name in convolution.inputs[1:] + batch_norm.inputs[1:] if name)
    )


def _fused(convolution: Step, batch_norm: Step, constants: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight (M, C / group, kernel) and bias (M,) of the fused convolution, computed in float64."""
    weight = constants[convolution.inputs[1]]
    scale, shift, mean, variance = (constants[name].double() for name in batch_norm.inputs[1:])
    factor = scale / torch.sqrt(variance + batch_norm.node.attribute("epsilon", 1e-5))
    bias = constants[convolution.inputs[2]].double() if any(convolution.inputs[2:]) else torch.zeros_like(mean)
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.to(weight.dtype), (shift + (bias - mean) * factor).to(weight.dtype)
