"""Sequences of tensors, and optional values. A sequence is a list of tensors; it is never a value to clip."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, Value, operator
from mmguard.calibrate.graph.operators.tensors import aligned, integers


@operator("SequenceConstruct", sequence=True)
def sequence_construct(node: Node, *tensors: Tensor) -> list[Tensor]:
    """The tensors as a sequence."""
    return list(tensors)


@operator("SequenceEmpty", attributes=("dtype",), sequence=True)
def sequence_empty(node: Node) -> list[Tensor]:
    """A sequence of no tensors."""
    return []


@operator("SequenceAt", host=(1,))
def sequence_at(node: Node, sequence: list[Tensor], position: Tensor) -> Tensor:
    """The tensor at a position, from the end where that is negative."""
    return sequence[int(position)]


@operator("SequenceInsert", host=(2,), sequence=True)
def sequence_insert(node: Node, sequence: list[Tensor], tensor: Tensor, position: Tensor | None = None) -> list[Tensor]:
    """The sequence with a tensor put in before a position, by default at the end."""
    at = len(sequence) if position is None else int(position)
    return [*sequence[:at], tensor, *sequence[at:]]


@operator("SequenceErase", host=(1,), sequence=True)
def sequence_erase(node: Node, sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    """The sequence without the tensor at a position, by default the last."""
    at = range(len(sequence))[-1 if position is None else int(position)]
    return sequence[:at] + sequence[at + 1 :]


@operator("SequenceLength")
def sequence_length(node: Node, sequence: list[Tensor]) -> Tensor:
    """The number of tensors: int64 ()."""
    return torch.tensor(len(sequence), dtype=torch.int64)


@operator("SplitToSequence", attributes=("axis", "keepdims"), host=(1,), sequence=True)
def split_to_sequence(node: Node, x: Tensor, split: Tensor | None = None) -> list[Tensor]:
    """`x` in parts along `axis`: of one length, of the lengths given, or by default single slices."""
    axis = node.attribute("axis", 0)
    if split is None:
        parts = x.split(1, axis)
        return list(parts) if node.attribute("keepdims", 1) else [part.squeeze(axis) for part in parts]
    lengths = integers(split)
    return list(x.split(lengths if split.dim() else lengths[0], axis))


@operator("ConcatFromSequence", attributes=("axis", "new_axis"))
def concat_from_sequence(node: Node, sequence: list[Tensor]) -> Tensor:
    """The tensors one after the other along `axis`, which is a new one if `new_axis`."""
    join = torch.stack if node.attribute("new_axis", 0) else torch.cat
    return join(aligned(*sequence), node.required("axis"))


@operator("Optional", attributes=("type",), sequence=True)
@operator("OptionalGetElement", sequence=True)
def optional(node: Node, value: Value | None = None) -> Value:
    """The value itself, which must be there."""
    if value is None:
        raise node.unsupported("an optional without a value")
    return value


@operator("OptionalHasElement")
def optional_has_element(node: Node, value: Value | None = None) -> Tensor:
    """Whether there is a value."""
    return torch.tensor(value is not None)
