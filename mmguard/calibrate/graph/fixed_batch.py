"""Run a network with a fixed batch size on batches of any size; `mmguard.runtime.batches` does so for ONNX Runtime."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def in_parts(run: Callable[[Tensor], Sequence[Tensor]], x: Tensor, size: int | None) -> list[Tensor]:
    """Run a function of batches of one size on a batch of any.

    Args:
        run: from (size, ...) to some tensors. x: (N, ...). size: None where it takes any.

    Returns:
        The tensors for the N inputs; differentiable. One whose first axis is not the batch's is that of the first part.
    """
    if size is None or len(x) == size:
        return list(run(x))
    results = [run(part) for part, _ in parts(x, size)]
    return [_joined(tensors, size, len(x)) for tensors in zip(*results, strict=True)]


def parts(x: Tensor, size: int | None) -> Iterator[tuple[Tensor, int]]:
    """The batches that a network takes, each with how many of its rows are of x: the last is filled up.

    Args:
        x: (N, ...). size: of a batch; None where it takes any.
    """
    for part in x.split(len(x) if size is None else size):
        yield part if size is None else _filled(part, size), len(part)


def _filled(part: Tensor, size: int) -> Tensor:
    """The part (n, ...), filled up to (size, ...) with copies of its own last row."""
    return torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part


def _joined(tensors: Sequence[Tensor], size: int, n: int) -> Tensor:
    first = tensors[0]
    return torch.cat(list(tensors))[:n] if first.ndim and len(first) == size else first
