"""Draw nodes that take images (N, C, spatial): convolutions, pooling, resizing and sampling."""

from typing import Any

import numpy as np

from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value, as_input, draws, subset


def _spatial(x: Value) -> int:
    """Return the number of spatial axes, 0 if x is not an image."""
    return x.dims - 2 if x.floats and 3 <= x.dims <= 5 else 0


def window(draw: Draw, x: Value, kernel: list[int], dilates: bool) -> dict[str, Any]:
    """Draw strides, dilations and padding, or `auto_pad`."""
    n = len(kernel)
    strides = [draw.whole(1, 2) for _ in kernel]
    if draw.whole(0, 3) == 0:
        # Strides within the kernel, because ONNX Runtime's pooling refuses larger ones here.
        inside = [min(pair) for pair in zip(strides, kernel, strict=True)]
        return {"auto_pad": draw.one("SAME_UPPER", "SAME_LOWER", "VALID"), "strides": inside}
    wide = [2 if 2 * k - 1 <= size else 1 for k, size in zip(kernel, x.shape[2:], strict=True)]
    dilations = [draw.whole(1, most) for most in wide] if dilates and draw.flag() else [1] * n
    pads = [draw.whole(0, kernel[i % n] - 1) for i in range(2 * n)]
    return subset(draw, strides=strides, pads=pads) | ({"dilations": dilations} if dilates else {})


def kernel_of(draw: Draw, x: Value) -> list[int]:
    return [draw.whole(1, min(3, n)) for n in x.shape[2:]]


@draws("Conv")
def conv(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not _spatial(x):
        return None
    groups = draw.one(*(g for g in (1, x.shape[1]) if x.shape[1] % g == 0))
    kernel, out = kernel_of(draw, x), groups * draw.whole(1, 2)
    weight = draw.floats(out, x.shape[1] // groups, *kernel)
    attributes = window(draw, x, kernel, True) | subset(draw, kernel_shape=kernel) | {"group": groups}
    return Drawn(operator, [x, weight, *([draw.floats(out)] if draw.flag() else [])], attributes)


@draws("ConvTranspose")
def conv_transpose(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if _spatial(x) not in (1, 2):
        return None
    groups = draw.one(*(g for g in (1, x.shape[1]) if x.shape[1] % g == 0))
    kernel, out = kernel_of(draw, x), draw.whole(1, 2)
    attributes: dict[str, Any] = {"strides": [draw.whole(1, 3) for _ in kernel], "group": groups}
    attributes |= subset(draw, dilations=[draw.whole(1, 2) for _ in kernel])
    attributes |= subset(draw, output_padding=[draw.whole(0, s - 1) for s in attributes["strides"]])
    attributes |= subset(draw, pads=[draw.whole(0, (k - 1) // 2) for k in kernel * 2])
    if "pads" not in attributes:
        attributes |= subset(draw, auto_pad=draw.one("SAME_UPPER", "SAME_LOWER", "VALID"))
    weight = draw.floats(x.shape[1], out, *kernel)
    return Drawn(operator, [x, weight, *([draw.floats(out * groups)] if draw.flag() else [])], attributes)


@draws("MaxPool", "AveragePool", "LpPool")
def pool(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if not _spatial(x):
        return None
    kernel = kernel_of(draw, x)
    dilates = draw.opset >= {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[operator]
    attributes = window(draw, x, kernel, dilates) | {"kernel_shape": kernel}
    if draw.opset >= (18 if operator == "LpPool" else 10) and "auto_pad" not in attributes:
        attributes |= subset(draw, ceil_mode=draw.whole(0, 1))
    if operator == "AveragePool":
        attributes |= subset(draw, count_include_pad=draw.whole(0, 1))
    if operator == "LpPool":
        attributes |= subset(draw, p=draw.whole(1, 3))
    outputs = draw.one(1, 2) if operator == "MaxPool" and draw.opset >= 8 else 1
    return Drawn(operator, [x], attributes | ({"storage_order": draw.whole(0, 1)} if outputs == 2 else {}), outputs)


@draws("MaxUnpool")
def max_unpool(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if _spatial(x) != 2 or x.shape[2] % 2 or x.shape[3] % 2:
        return None
    frame = {"kernel_shape": [2, 2], "strides": [2, 2]}
    return [pooled := Drawn("MaxPool", [x], frame, 2), Drawn(operator, [pooled, (pooled, 1)], frame)]


@draws("GlobalAveragePool", "GlobalMaxPool")
def global_pool(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x]) if _spatial(x) else None


@draws("GlobalLpPool")
def global_lp_pool(draw: Draw, operator: str, x: Value) -> Drawn | None:
    return Drawn(operator, [x], subset(draw, p=draw.whole(1, 3))) if _spatial(x) else None


@draws("Upsample")
def upsample(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if _spatial(x) != 2:
        return None
    scales = [1.0, 1.0, draw.one(1.0, 2.0, 3.0), draw.one(1.0, 2.0)]
    mode = subset(draw, mode=draw.one("nearest", "linear"))
    if draw.opset < 9:
        return Drawn(operator, [x], mode | {"scales": scales})
    return Drawn(operator, [x, np.array(scales, np.float32)], mode)


@draws("Resize")
def resize(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if _spatial(x) != 2:
        return None
    mode = draw.one("nearest", "linear", "cubic")
    scales = np.array([1, 1, draw.one(0.5, 1, 1.5, 2, 0.6), draw.one(0.5, 0.75, 2, 2.6)], np.float32)
    if draw.opset < 11:
        return Drawn(operator, [x, scales], {"mode": "linear" if mode == "cubic" else mode})
    sizes = as_input([*x.shape[:2], draw.whole(1, 7), draw.whole(1, 7)])
    attributes: dict[str, Any] = {"mode": mode} | _rounding(draw, mode)
    modes = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners", "tf_crop_and_resize"]
    modes += ["half_pixel_symmetric"] if draw.opset >= 19 else []
    attributes |= {"coordinate_transformation_mode": draw.one(*modes)}
    if draw.opset >= 18 and mode != "nearest" and attributes["coordinate_transformation_mode"] != "tf_crop_and_resize":
        attributes |= subset(draw, antialias=1)
    roi: Array | None = None
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        roi = np.array([0, 0, draw.one(0, 0.1), draw.number(-0.2, 0.4), 1, 1, 1, draw.number(0.5, 1.3)], np.float32)
        attributes |= subset(draw, extrapolation_value=0.5)
    if roi is None and draw.opset < 13:
        roi = np.zeros(0, np.float32)
    if roi is None and draw.opset >= 18 and draw.flag():
        policy = subset(draw, keep_aspect_ratio_policy=draw.one("stretch", "not_larger", "not_smaller"))
        # With a policy, ONNX Runtime does not resize axes with negative indices.
        attributes |= policy | {"axes": [2, 3] if policy else draw.one([2, 3], [-2, -1])}
        sizes, scales = sizes[2:], scales[2:]
    if draw.flag() or "keep_aspect_ratio_policy" in attributes:
        return Drawn(operator, [x, roi, np.zeros(0, np.float32) if draw.opset < 13 else None, sizes], attributes)
    return Drawn(operator, [x, roi, scales], attributes)


def _rounding(draw: Draw, mode: str) -> dict[str, Any]:
    if mode == "nearest":
        return subset(draw, nearest_mode=draw.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    return subset(draw, cubic_coeff_a=-0.5, exclude_outside=1) if mode == "cubic" else {}


@draws("GridSample")
def grid_sample(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if _spatial(x) not in (2, 3) or (_spatial(x) == 3 and draw.opset < 20):
        return None
    kinds = ("bilinear", "nearest", "bicubic") if draw.opset < 20 else ("linear", "nearest", "cubic")
    out = [draw.whole(1, 4) for _ in range(_spatial(x))]
    attributes = {"mode": draw.one(*kinds)} | subset(
        draw, align_corners=draw.whole(0, 1), padding_mode=draw.one("zeros", "border", "reflection")
    )
    return Drawn(operator, [x, draw.floats(x.shape[0], *out, _spatial(x), low=-1.3, high=1.3)], attributes)


@draws("AffineGrid")
def affine_grid(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    if _spatial(x) != 2:
        return None
    theta = Drawn("Mul", [draw.floats(x.shape[0], 2, 3), np.array([0.7], np.float32)])
    size = as_input([x.shape[0], x.shape[1], draw.whole(1, 4), draw.whole(1, 4)])
    grid = Drawn(operator, [theta, size], subset(draw, align_corners=draw.whole(0, 1)))
    return [theta, grid, Drawn("GridSample", [x, grid])]


@draws("DeformConv")
def deform_conv(draw: Draw, operator: str, x: Value) -> Drawn | None:
    if _spatial(x) != 2 or min(x.shape[2:]) < 2:
        return None
    n, c, h, w = x.shape
    weight = draw.floats(draw.whole(1, 2), c, 2, 2)
    offset = draw.floats(n, 8, h + 1, w, low=-1, high=1)
    attributes = {"kernel_shape": [2, 2], "pads": [1, 0, 1, 1]}
    extra: list[Array | None] = [draw.floats(len(weight)), draw.floats(n, 4, h + 1, w)] if draw.flag() else []
    return Drawn(operator, [x, weight, offset, *extra], attributes)


@draws("Col2Im")
def col2im(draw: Draw, operator: str, x: Value) -> list[Drawn] | None:
    """Draw a Col2Im of 2 × 2 blocks of x."""
    if _spatial(x) != 2 or min(x.shape[2:]) < 2:
        return None
    n, c, h, w = x.shape
    pads = draw.one([0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 1])
    blocks = (h + pads[0] + pads[2] - 1) * (w + pads[1] + pads[3] - 1)
    columns = Drawn("Conv", [x, draw.floats(4 * c, c, 1, 1)])
    flat = Drawn("Reshape", [columns, as_input([n, 4 * c, h * w])])
    at = draw.ints(blocks, low=0, high=h * w - 1)
    taken = Drawn("Gather", [flat, at], {"axis": 2})
    return [columns, flat, taken, Drawn(operator, [taken, as_input([h, w]), as_input([2, 2])], {"pads": pads})]
