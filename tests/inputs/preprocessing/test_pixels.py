"""Against Pillow and NumPy called directly, and by hand."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmguard.inputs.preprocessing import normalise, pixel_box, prepare
from mmguard.inputs.spec import PREPROCESSING_CHOICES, Preprocessing


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def raw(**options: Any) -> Preprocessing:
    """A preprocessing that leaves the pixels' values as they are, in their own layout."""
    return Preprocessing(scale=1, layout="NHWC", **options)


@pytest.mark.parametrize("interpolation", PREPROCESSING_CHOICES["interpolation"])
@pytest.mark.parametrize("size", [(5, 9), (40, 33)])
def test_pixels_are_resized_as_pillow_does(interpolation: str, size: tuple[int, int]) -> None:
    filters = {
        **{"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "box": Image.Resampling.BOX},
        **{"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS},
        "hamming": Image.Resampling.HAMMING,
    }
    expected = picture(20, 31).resize(size[::-1], filters[interpolation])
    found = prepare(picture(20, 31), raw(size=size, interpolation=interpolation))
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(
    ("image", "edge", "resized"),
    [
        ((20, 31), 10, (10, 15)),  # 15.5: the longer edge is rounded down
        ((31, 20), 10, (15, 10)),
        ((30, 30), 16, (16, 16)),
        ((20, 31), 20, (20, 31)),
        ((20, 31), 40, (40, 62)),
        ((500, 333), 256, (384, 256)),  # 384.38
    ],
)
def test_a_shortest_edge_keeps_the_aspect(image: tuple[int, int], edge: int, resized: tuple[int, int]) -> None:
    expected = picture(*image).resize(resized[::-1], Image.Resampling.BICUBIC)
    found = prepare(picture(*image), raw(shortest_edge=edge, interpolation="bicubic"))
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(
    ("rounding", "crop", "top", "left"),
    [
        # What is left over is 8 of 20 rows, and of 31 columns 1, 3, 5 and 7: half of it is .5, 1.5, 2.5 and 3.5.
        ("floor", (12, 30), 4, 0),
        ("floor", (12, 28), 4, 1),
        ("floor", (12, 26), 4, 2),
        ("floor", (12, 24), 4, 3),
        ("even", (12, 30), 4, 0),
        ("even", (12, 28), 4, 2),
        ("even", (12, 26), 4, 2),
        ("even", (12, 24), 4, 4),
    ],
)
def test_the_middle_is_cut_out(rounding: str, crop: tuple[int, int], top: int, left: int) -> None:
    found = prepare(picture(20, 31), raw(crop=crop, crop_rounding=rounding))
    expected = np.asarray(picture(20, 31))[top : top + crop[0], left : left + crop[1]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("rounding", "before"), [("floor", 2), ("even", 1)])
def test_a_crop_beyond_the_image_is_black(rounding: str, before: int) -> None:
    found = prepare(picture(20, 31), raw(crop=(23, 31), crop_rounding=rounding))
    expected = np.pad(np.asarray(picture(20, 31)), ((before, 3 - before), (0, 0), (0, 0)))
    np.testing.assert_array_equal(found, expected)


def test_resizing_comes_before_the_crop_and_both_before_the_values() -> None:
    how = Preprocessing(
        shortest_edge=12, crop=(8, 10), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bicubic"
    )
    resized = picture(20, 31).resize((18, 12), Image.Resampling.BICUBIC)
    cropped = np.asarray(resized)[2:10, 4:14].astype(np.float32)
    expected = (cropped / 255 - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    np.testing.assert_allclose(prepare(picture(20, 31), how), expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-7)


def test_scaled_pixels_are_those_of_a_division_in_float32() -> None:
    """As torchvision's ToTensor and thus timm have it, to the last bit."""
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(normalise(every, Preprocessing(mode="L"))[0], every[..., 0] / np.float32(255))


def test_mean_and_deviation_are_in_the_models_order_of_channels() -> None:
    pixels = np.array([[[10, 20, 30]]], np.uint8)
    how = raw(channel_order="BGR", mean=(1, 2, 3), std=(1, 2, 4))
    np.testing.assert_array_equal(normalise(pixels, how), [[[29, 9, 1.75]]])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_every_image_lies_in_the_box(mode: str, layout: str, order: str) -> None:
    mean = (0.5, 0.4, 0.3) if mode == "RGB" else (0.5,)
    how = Preprocessing(mode=mode, mean=mean, std=(0.25,), layout=layout, channel_order=order)
    low, high = pixel_box(how)
    assert low.shape == high.shape == ((len(mode), 1, 1) if layout == "NCHW" else (1, 1, len(mode)))
    pixels = np.stack([np.zeros((4, 4, len(mode))), np.full((4, 4, len(mode)), 255)]).astype(np.float32)
    black, white = (normalise(image, how) for image in pixels)
    np.testing.assert_array_equal(black, np.broadcast_to(low, black.shape))
    np.testing.assert_array_equal(white, np.broadcast_to(high, white.shape))
    assert low.dtype == high.dtype == np.float32
    assert (low < high).all()
