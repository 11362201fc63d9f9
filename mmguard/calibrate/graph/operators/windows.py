"""What convolutions and pools share: the sliding window and its padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node

ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class Window:
    """A sliding window over D spatial axes; every field has D integers.

    Attributes:
        kernel, strides, dilations: in elements.
        begin, end: padding before and after each axis; the end is -1 where `auto_pad` leaves an element over.
        overhang: elements by which the last window reaches beyond the padding, above 0 only with `ceil_mode`.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    overhang: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether PyTorch's pools take the padding: equal on both sides and at most half the kernel."""
        return self.begin == self.end and all(2 * p <= k for p, k in zip(self.begin, self.kernel, strict=True))


def window(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of a node over an input of D spatial axes.

    Raises:
        UnsupportedOperatorError: for an `auto_pad` that ONNX does not define.
    """
    strides: Sequence[int] = node.attribute("strides", (1,) * len(kernel))
    dilations: Sequence[int] = node.attribute("dilations", (1,) * len(kernel))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, spatial, extents, strides)
    ceil_mode = bool(node.attribute("ceil_mode", 0))
    axes = zip(spatial, extents, strides, pads, strict=True)
    overhang = tuple(_overhang(ceil_mode, *axis) for axis in axes)
    begin, end = zip(*pads, strict=True)
    return Window(tuple(kernel), tuple(strides), tuple(dilations), begin, end, overhang)


def _pads(node: Node, spatial: Sequence[int], extents: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    mode = node.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads: Sequence[int] = node.attribute("pads", (0,) * (2 * len(spatial)))
        return list(zip(pads[: len(spatial)], pads[len(spatial) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(spatial)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.unsupported(f"auto_pad {mode!r}")
    totals = [(-(-n // s) - 1) * s + e - n for n, e, s in zip(spatial, extents, strides, strict=True)]
    if min(totals) < -1:  # ONNX Runtime crops here, but not in the same way in each of its kernels
        raise node.unsupported(f"auto_pad {mode} with strides {tuple(strides)} over a kernel of {tuple(extents)}")
    begins = [max(total + (mode == "SAME_LOWER"), 0) // 2 for total in totals]
    return [(begin, total - begin) for begin, total in zip(begins, totals, strict=True)]


def _overhang(ceil_mode: bool, size: int, extent: int, stride: int, pads: tuple[int, int]) -> int:
    """Windows that would start in the end padding are left out, as in PyTorch and ONNX."""
    padded = size + sum(pads)
    if not ceil_mode:
        return 0
    last = -(-(padded - extent) // stride) * stride
    if last >= size + pads[0]:
        last -= stride
    return max(0, last + extent - padded)


def pad(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Pads the last axes of x with a value; `begin` and `end` are in ONNX's order, first axis first."""
    widths = [width for pair in zip(reversed(begin), reversed(end), strict=True) for width in pair]
    return F.pad(x, widths, value=value) if any(widths) else x
