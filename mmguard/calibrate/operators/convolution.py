"""Convolutions over one, two or three spatial axes."""

import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.operators.registry import Node, operator
from mmguard.calibrate.operators.windows import ATTRIBUTES, pad, window

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@operator("Conv", attributes=(*ATTRIBUTES, "group"))
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (N, C, spatial), weight (M, C / group, kernel), bias (M,)."""
    axes = x.dim() - 2
    if axes not in CONVOLUTIONS:
        raise node.unsupported(f"{axes} spatial axes, where 1 to 3 are known")
    view = window(node, x.shape[2:], weight.shape[2:])
    padding = view.begin
    if view.begin != view.end:
        x, padding = pad(x, view.begin, view.end), (0,) * axes
    groups = node.attribute("group", 1)
    return CONVOLUTIONS[axes](x, weight, bias, view.strides, padding, view.dilations, groups)
