"""Operators on sequences of tensors and on optional values. A sequence is a list, and is never a clip site."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, Value, operator
from mmguard.calibrate.graph.operators.tensors import aligned, integers


@operator("SequenceConstruct", sequence=True)
def sequence_construct(node: Node, *tensors: Tensor) -> list[Tensor]:
    """A sequence of the given tensors."""
    return list(tensors)


@operator("SequenceEmpty", attributes=("dtype",), sequence=True)
def sequence_empty(node: Node) -> list[Tensor]:
    """An empty sequence."""
    return []


@operator("SequenceAt", host=(1,))
def sequence_at(node: Node, sequence: list[Tensor], position: Tensor) -> Tensor:
    """The tensor at a position; a negative position counts from the end."""
    return sequence[int(position)]


@operator("SequenceInsert", host=(2,), sequence=True)
def sequence_insert(node: Node, sequence: list[Tensor], tensor: Tensor, position: Tensor | None = None) -> list[Tensor]:
    """The sequence with a tensor inserted before a position, by default at the end."""
    at = len(sequence) if position is None else int(position)
    return [*sequence[:at], tensor, *sequence[at:]]


@operator("SequenceErase", host=(1,), sequence=True)
def sequence_erase(node: Node, sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    """The sequence without the tensor at a position; by default, without the last tensor."""
    at = range(len(sequence))[-1 if position is None else int(position)]
    return sequence[:at] + sequence[at + 1 :]


@operator("SequenceLength")
def sequence_length(node: Node, sequence: list[Tensor]) -> Tensor:
    """Number of tensors in the sequence, as an int64 scalar."""
    return torch.tensor(len(sequence), dtype=torch.int64)


@operator("SplitToSequence", attributes=("axis", "keepdims"), host=(1,), sequence=True)
def split_to_sequence(node: Node, x: Tensor, split: Tensor | None = None) -> list[Tensor]:
    """Parts of x along `axis`, with one given length for all parts or one per part; the default length is 1."""
    axis = node.attribute("axis", 0)
    if split is None:
        parts = x.split(1, axis)
        return list(parts) if node.attribute("keepdims", 1) else [part.squeeze(axis) for part in parts]
    lengths = integers(split)
    return list(x.split(lengths if split.dim() else lengths[0], axis))


@operator("ConcatFromSequence", attributes=("axis", "new_axis"))
def concat_from_sequence(node: Node, sequence: list[Tensor]) -> Tensor:
    """The tensors concatenated along `axis`, or stacked along a new axis if `new_axis` is set."""
    join = torch.stack if node.attribute("new_axis", 0) else torch.cat
    return join(aligned(*sequence), node.required("axis"))


@operator("Optional", attributes=("type",), sequence=True)
@operator("OptionalGetElement", sequence=True)
def optional(node: Node, value: Value | None = None) -> Value:
    """The optional value itself, which must exist."""
    if value is None:
        raise node.unsupported("the optional value is missing")
    return value


@operator("OptionalHasElement")
def optional_has_element(node: Node, value: Value | None = None) -> Tensor:
    """Whether the optional value exists."""
    return torch.tensor(value is not None)
