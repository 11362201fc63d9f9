"""Run a network with a fixed batch size on batches of any size.

`mmguard.runtime.batches` does the same for ONNX Runtime.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def run_in_batches(run: Callable[[Tensor], Sequence[Tensor]], x: Tensor, size: int | None) -> list[Tensor]:
    """Run a function with a fixed batch size on a batch of any size; the result is differentiable.

    Args:
        run: function that maps a batch (size, ...) to tensors.
        x: (N, ...) inputs.
        size: number of inputs per batch; None if `run` takes batches of any size.

    Returns:
        The tensors for all N inputs. A tensor whose first axis is not the batch axis is taken from the first batch.
    """
    if size is None or len(x) == size:
        return list(run(x))
    results = [run(batch) for batch, _ in padded_batches(x, size)]
    return [_joined(tensors, size, len(x)) for tensors in zip(*results, strict=True)]


def padded_batches(x: Tensor, size: int | None) -> Iterator[tuple[Tensor, int]]:
    """Split inputs into batches of equal size; the last batch is padded with copies of its last row.

    Args:
        x: (N, ...) inputs.
        size: number of inputs per batch; None puts all inputs into one batch.

    Yields:
        Each batch (size, ...), and the number of its rows that are not padding.

    Example:
        >>> [(batch.tolist(), n) for batch, n in padded_batches(torch.tensor([1, 2, 3]), 2)]
        [([1, 2], 2), ([3, 3], 1)]
    """
    for part in x.split(len(x) if size is None else size):
        yield part if size is None else _padded(part, size), len(part)


def _padded(part: Tensor, size: int) -> Tensor:
    return torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part


def _joined(tensors: Sequence[Tensor], size: int, n: int) -> Tensor:
    first = tensors[0]
    return torch.cat(list(tensors))[:n] if first.ndim and len(first) == size else first
