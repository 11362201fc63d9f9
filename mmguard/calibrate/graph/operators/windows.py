"""The sliding window of convolution and pooling operators, and the padding of their input."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node

ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class Window:
    """A sliding window over D spatial axes. Every field contains D numbers of elements, one per axis.

    Attributes:
        kernel: size of the window.
        strides: distance between the starts of neighbouring windows.
        dilations: distance between neighbouring elements of a window.
        begin: padding at the beginning of each axis.
        end: padding at the end of each axis; -1 if `auto_pad` leaves the last element unused.
        overhang: how far the last window extends beyond the padding; above 0 only with `ceil_mode`.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    overhang: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether PyTorch's pooling accepts the padding: equal at both ends, and at most half the kernel."""
        return self.begin == self.end and all(2 * p <= k for p, k in zip(self.begin, self.kernel, strict=True))


def window(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """Determine the sliding window of a node from the node's attributes.

    Args:
        node: node of a convolution or a pooling operator.
        spatial: lengths of the D spatial axes of the input.
        kernel: size of the window along each of these axes.

    Returns:
        The window, with `auto_pad` and `ceil_mode` resolved to numbers.

    Raises:
        UnsupportedOperatorError: ONNX does not define this value of `auto_pad`, or the kernels of ONNX Runtime differ
            in how they pad.
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
        raise node.unsupported(f"auto_pad {mode!r} is not supported")
    totals = [(-(-n // s) - 1) * s + e - n for n, e, s in zip(spatial, extents, strides, strict=True)]
    if min(totals) < -1:  # ONNX Runtime crops in this case, but not all of its kernels crop in the same way
        raise node.unsupported(
            f"auto_pad {mode} is not supported with strides {tuple(strides)} and a kernel of size {tuple(extents)}"
        )
    begins = [max(total + (mode == "SAME_LOWER"), 0) // 2 for total in totals]
    return [(begin, total - begin) for begin, total in zip(begins, totals, strict=True)]


def _overhang(ceil_mode: bool, size: int, extent: int, stride: int, pads: tuple[int, int]) -> int:
    """Return the overhang along one axis. As ONNX specifies, no window starts in the end padding."""
    padded = size + sum(pads)
    if not ceil_mode:
        return 0
    last = -(-(padded - extent) // stride) * stride
    if last >= size + pads[0]:
        last -= stride
    return max(0, last + extent - padded)


def pad(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes of a tensor, or crop them where the number of elements is negative.

    Args:
        x: tensor with at least as many axes as `begin` has entries.
        begin: number of elements to add at the beginning of each of the last axes, in the order of the axes.
        end: number of elements to add at the end of each of the last axes.
        value: value of the added elements.

    Returns:
        The padded tensor.

    Example:
        >>> pad(Tensor([5, 6]), [1], [2])
        tensor([0., 5., 6., 0., 0.])
    """
    widths = [width for pair in zip(reversed(begin), reversed(end), strict=True) for width in pair]
    return F.pad(x, widths, value=value) if any(widths) else x
