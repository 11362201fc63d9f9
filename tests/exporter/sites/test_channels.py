"""On which axis the channels of a site are, in graphs as TensorFlow's and PyTorch's exporters write them."""

import pytest

from tests.exporter.sites.graphs import surveyed

HEAD = "pooled = GlobalAveragePool({}) g = Flatten(pooled) logits = MatMul(g, w)"
TO_LAST, TO_FIRST = "Transpose<perm = [0, 2, 3, 1]>", "Transpose<perm = [0, 3, 1, 2]>"

IMAGES = "n, 4, 4, 4"
PHOTOS = "n, 8, 6, 4"
"""Height 8, width 6, channels last."""


def axes(body: str, shape: str = IMAGES, constants: str = "") -> dict[str, tuple[int, int | None, int | None]]:
    """Axis, channels and places by value."""
    return {site.value: (site.axis, site.channels, site.places) for site in surveyed(body, shape, constants).sites}


def test_after_a_convolution_and_after_a_sum() -> None:
    body = "c = Conv(x, k) a = Relu(c) s = Add(a, x) b = Relu(s) " + HEAD.format("b")
    assert axes(body) == {"a": (1, 4, 16), "b": (1, 4, 16)}


@pytest.mark.parametrize(
    ("shape", "kernel", "places"), [("n, 4, 9", (4, 4, 1), 9), ("n, 4, 2, 3, 5", (4, 4, 1, 1, 1), 30)]
)
def test_in_one_and_three_dimensions(shape: str, kernel: tuple[int, ...], places: int) -> None:
    numbers = ", ".join(["0.5"] * 16)
    constants = f"float[{', '.join(map(str, kernel))}] v = {{{numbers}}}"
    assert axes("c = Conv(x, v) a = Relu(c) " + HEAD.format("a"), shape, constants) == {"a": (1, 4, places)}


def test_of_flat_features_and_of_tokens() -> None:
    assert axes("m = MatMul(x, square) a = Relu(m) logits = MatMul(a, w)", "n, 4") == {"a": (-1, 4, 1)}
    assert axes("m = Gemm(x, square) a = Relu(m) logits = Gemm(a, w)", "n, 4") == {"a": (-1, 4, 1)}
    tokens = "m = MatMul(x, square) a = Relu(m) z = ReduceMean<keepdims = 0>(a, one) logits = MatMul(z, w)"
    assert axes(tokens, "n, 7, 4", "int64[1] one = {1}") == {"a": (-1, 4, 7)}


def test_of_tokens_before_and_after_a_layer_normalisation() -> None:
    body = "a = Relu(x) l = LayerNormalization(a, bias) b = Relu(l) z = ReduceMean<keepdims = 0>(b, one) "
    assert axes(body + "logits = MatMul(z, w)", "n, 7, 4", "int64[1] one = {1}") == {"a": (-1, 4, 7), "b": (-1, 4, 7)}


def test_of_a_normalisation_over_groups() -> None:
    body = "a = Relu(x) l = GroupNormalization<num_groups = 2>(a, bias, bias) b = Relu(l) z = Flatten(b) "
    assert axes(body + "logits = MatMul(z, flat)") == {"a": (1, 4, 16), "b": (1, 4, 16)}
    written_out = "a = Relu(x) r = Reshape(a, groups) i = InstanceNormalization(r, two, two) s = Reshape(i, back) "
    written_out += "b = Relu(s) z = Flatten(b) logits = MatMul(z, flat)"
    constants = "int64[3] groups = {0, 2, -1}, int64[4] back = {-1, 4, 4, 4}, float[2] two = {1.0, 1.0}"
    assert axes(written_out, constants=constants) == {"a": (1, 4, 16), "b": (1, 4, 16)}


def test_tensorflows_layout_on_either_side_of_the_transpose() -> None:
    """A convolution between transposes, as tf2onnx leaves it, the activation before or after the second one."""
    start = f"t = {TO_FIRST}(x) c = Conv(t, k) "
    end = "z = ReduceMean<keepdims = 0>(y, space) logits = MatMul(z, w)"
    space = "int64[2] space = {1, 2}"
    assert axes(start + f"a = Relu(c) y = {TO_LAST}(a) " + end, PHOTOS, space) == {"a": (1, 4, 48)}
    assert axes(start + f"b = {TO_LAST}(c) y = Relu(b) " + end, PHOTOS, space) == {"y": (-1, 4, 48)}


def test_tensorflows_layout_between_two_convolutions() -> None:
    body = f"t = {TO_FIRST}(x) c = Conv(t, k) u = {TO_LAST}(c) s = Add(u, bias) a = Relu(s) v = {TO_FIRST}(a) "
    assert axes(body + "d = Conv(v, k) y = Elu(d) " + HEAD.format("y"), PHOTOS) == {"a": (-1, 4, 48), "y": (1, 4, 48)}


def test_before_a_flatten_the_layer_behind_it_says_which_axis_it_is() -> None:
    """A Gemm over all of C, H and W leaves it open; the convolution before does not."""
    end = "logits = MatMul(f, flat)"
    assert axes("c = Conv(x, k) a = Relu(c) f = Flatten(a) " + end) == {"a": (1, 4, 16)}
    assert axes("c = Conv(x, k) a = Relu(c) f = Reshape(a, all) " + end, constants="int64[2] all = {-1, 64}") == {
        "a": (1, 4, 16)
    }
    last = f"c = Conv(x, k) t = {TO_LAST}(c) a = Relu(t) f = Flatten(a) " + end
    assert axes(last) == {"a": (-1, 4, 16)}
    assert axes("a = Relu(x) f = Flatten(a) " + end) == {"a": (1, 4, 16)}, "the first where no layer is before it"


def test_after_a_flatten_each_feature_is_a_channel() -> None:
    assert axes("c = Conv(x, k) f = Flatten(c) a = Relu(f) logits = MatMul(a, flat)") == {"a": (-1, 64, 1)}


def test_the_computed_shape_of_a_flatten() -> None:
    """As PyTorch's older exporter writes `view(len(x), -1)`, at an opset where inference does not follow it."""
    shape = "s = Shape(a) i = Gather<axis = 0>(s, zero) u = Unsqueeze<axes = [0]>(i) t = Concat<axis = 0>(u, rest) "
    body = f"c = Conv(x, k) a = Relu(c) {shape} f = Reshape(a, t) b = Elu(f) logits = MatMul(b, flat)"
    constants = "int64 zero = {0}, int64[1] rest = {-1}"
    found = surveyed(body, IMAGES, constants, '<ir_version: 5, opset_import: ["" : 9]>')
    assert [(site.value, site.axis, site.channels) for site in found.sites] == [("a", 1, 4), ("b", -1, None)]


def test_through_a_channel_shuffle() -> None:
    body = "c = Conv(x, k) a = Relu(c) r = Reshape(a, apart) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) "
    body += "s = Reshape(t, back) d = Conv(s, k) " + HEAD.format("d")
    constants = "int64[5] apart = {0, 2, 2, 4, 4}, int64[4] back = {0, 4, 4, 4}"
    assert axes(body, constants=constants) == {"a": (1, 4, 16)}


def test_through_a_pixel_shuffle() -> None:
    numbers = ", ".join(["0.5"] * 3)
    body = (
        "c = Conv(x, k) a = Relu(c) d = DepthToSpace<blocksize = 2>(a) b = Elu(d) g = Flatten(b) logits = Gemm(g, flat)"
    )
    assert axes(body) == {"a": (1, 4, 16), "b": (1, 1, 64)}
    written_out = "c = Conv(x, k) a = Relu(c) r = Reshape(a, apart) t = Transpose<perm = [0, 1, 4, 2, 5, 3]>(r) "
    written_out += "s = Reshape(t, back) b = Elu(s) e = Conv(b, single) g = GlobalAveragePool(e) logits = Flatten(g)"
    constants = (
        f"int64[6] apart = {{0, 1, 2, 2, 4, 4}}, int64[4] back = {{0, 1, 8, 8}}, float[3,1,1,1] single = {{{numbers}}}"
    )
    assert axes(written_out, constants=constants) == {"a": (1, 4, 16), "b": (1, 1, 64)}


def test_through_what_joins_parts_pads_and_pools() -> None:
    body = (
        "c = Conv(x, k) h, i = Split<axis = 1, num_outputs = 2>(c) a = Relu(h) b = Elu(i) j = Concat<axis = 1>(a, b) "
    )
    body += "p = Pad(j, pads) q = MaxPool<kernel_shape = [2, 2]>(p) d = Conv(q, k) " + HEAD.format("d")
    constants = "int64[8] pads = {0, 0, 1, 1, 0, 0, 0, 0}"
    assert axes(body, constants=constants) == {"a": (1, 2, 16), "b": (1, 2, 16)}


def test_of_a_product_with_the_weights_in_front() -> None:
    """Mixing of places, with weights (places, places) from the left: channels of the result are the places."""
    body = "m = MatMul(square, x) a = Relu(m) v = MatMul(square, a) z = ReduceMean<keepdims = 0>(v, two) "
    assert axes(body + "logits = MatMul(z, w)", "n, 4, 9", "int64[1] two = {2}") == {"a": (1, 4, 9)}


def test_of_an_einsum() -> None:
    body = (
        'm = Einsum<equation = "nct,cd->ndt">(x, square) a = Relu(m) v = Einsum<equation = "nct,cd->ndt">(a, square) '
    )
    body += "z = ReduceMean<keepdims = 0>(v, two) logits = MatMul(z, w)"
    assert axes(body, "n, 4, 9", "int64[1] two = {2}") == {"a": (1, 4, 9)}


def test_where_layers_disagree_the_nearest_one_that_reads_the_value_decides() -> None:
    """A matrix product makes the last axis, what follows reads the second."""
    body = "m = MatMul(x, square) a = Relu(m) d = Conv(a, k) " + HEAD.format("d")
    assert axes(body) == {"a": (1, 4, 16)}


def test_in_a_network_of_any_size_of_image() -> None:
    body = "c = Conv(x, k) a = Relu(c) s = Add(a, x) b = Relu(s) " + HEAD.format("b")
    assert axes(body, "n, 4, h, w2") == {"a": (1, 4, None), "b": (1, 4, None)}


@pytest.mark.parametrize(("layer", "axis"), [("c = Conv(a, k)", 1), ("c = MatMul(a, square)", -1)])
def test_after_an_operator_whose_shape_nobody_knows(layer: str, axis: int) -> None:
    body = f"o = own.Odd(x) a = Relu(o) {layer} r = own.Odd(c) logits = MatMul(r, w)"
    (site,) = surveyed(body, header='<ir_version: 8, opset_import: ["" : 17, "own" : 1]>').sites
    assert (site.axis, site.channels, site.places) == (axis, None, None)
