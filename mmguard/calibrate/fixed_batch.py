"""Networks that take batches of one size, on batches of any; the counterpart of `mmguard.batching` for PyTorch."""

from collections.abc import Callable, Sequence

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
    results = [run(_filled(part, size)) for part in x.split(size)]
    return [_joined(tensors, size, len(x)) for tensors in zip(*results, strict=True)]


def _filled(part: Tensor, size: int) -> Tensor:
    """The part (n, ...), filled up to (size, ...) with copies of its own last row."""
    return torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part


def _joined(tensors: Sequence[Tensor], size: int, n: int) -> Tensor:
    first = tensors[0]
    return torch.cat(list(tensors))[:n] if first.ndim and len(first) == size else first
