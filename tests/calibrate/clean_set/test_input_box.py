"""The box of feasible inputs, from the preprocessing or from D."""

from typing import Any

import numpy as np
import pytest

from mmguard.calibrate.clean_set.input_box import declared_input, with_box
from mmguard.errors import InputError, OptionError
from mmguard.inputs.spec import Preprocessing

Shape = tuple[int | None, ...]
RANDOM = np.random.default_rng(0)


def declared(*shape: int | None, how: Preprocessing | None = None, images: bool = True, dtype: str = "float32") -> Any:
    return declared_input("x", (None, *shape), how, images, dtype)


@pytest.mark.parametrize(
    ("shape", "layout", "mode", "says"),
    [
        ((3, 32, 32), "NCHW", "RGB", "inferred from"),
        ((1, 32, 32), "NCHW", "L", "inferred from"),
        ((32, 32, 3), "NHWC", "RGB", "inferred from"),
        ((32, 32, 1), "NHWC", "L", "inferred from"),
        ((3, None, None), "NCHW", "RGB", "inferred from"),
        ((None, None, 3), "NHWC", "RGB", "inferred from"),
        ((None, None, None), "NCHW", "RGB", "cannot be inferred from"),
        ((3, 3, 3), "NCHW", "RGB", "cannot be inferred from"),
        ((1, 28, 3), "NCHW", "L", "cannot be inferred from"),
    ],
)
def test_the_layout_is_what_the_shape_tells(
    shape: Shape, layout: str, mode: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spec = declared(*shape)
    assert (spec.preprocessing.layout, spec.preprocessing.mode) == (layout, mode)
    assert spec.low.shape == ((len(mode), 1, 1) if layout == "NCHW" else (1, 1, len(mode)))
    assert f"layout {layout}" in caplog.text
    assert says in caplog.text


def test_a_layout_that_was_given_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert declared(3, 32, 3, how=Preprocessing(layout="NHWC")).preprocessing.layout == "NHWC"
    assert "layout" not in caplog.text


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8, 2)])
def test_other_numbers_of_channels_are_no_images(shape: Shape) -> None:
    with pytest.raises(
        InputError, match=r"channels in layout NCHW .*, but images have 1 or 3 channels; check --layout"
    ):
        declared(*shape)


def test_a_model_that_takes_uint8_gets_pixels_as_they_are() -> None:
    for how in (None, Preprocessing(size=(8, 8)), Preprocessing(scale=1, mean=(0, 0, 0), std=(1, 1, 1))):
        spec = declared(3, 8, 8, how=how, dtype="uint8")
        assert (spec.preprocessing.scale, spec.dtype) == (1, "uint8")
        assert (spec.low.ravel().tolist(), spec.high.ravel().tolist()) == ([0, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("how", [{"mean": (0.5,)}, {"std": (0.5,)}, {"scale": 1 / 127.5}])
def test_a_model_that_takes_uint8_cannot_be_given_normalised_pixels(how: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"normalises them itself; leave out .* pass --mean 0 --std 1 --scale 1"):
        declared(3, 8, 8, how=Preprocessing(**how), dtype="uint8")


@pytest.mark.parametrize("shape", [(3, 8, 8), (5,)])
def test_arrays_of_uint8_may_be_all_that_uint8_can_be(shape: tuple[int, ...]) -> None:
    spec = declared(*shape, images=False, dtype="uint8")
    x = RANDOM.integers(20, 90, (10, *shape)).astype(np.float32)
    boxed = with_box(spec, x)
    assert (boxed.low.ravel().tolist(), boxed.high.ravel().tolist(), boxed.low.ndim) == ([0], [255], len(shape))


@pytest.mark.parametrize(
    ("shape", "kept", "size"),
    [
        ((5,), 0, (5,)),
        ((3, 8, 8), 0, (3, 1, 1)),
        ((8, 8, 3), 2, (1, 1, 3)),
        ((1, 8, 8), 0, (1, 1, 1)),
        ((4, 8, 8), 0, (4, 1, 1)),
        ((3, 5, 8, 8), 0, (3, 1, 1, 1)),
        ((5, 8, 8, 3), 3, (1, 1, 1, 3)),
        ((3, 50), 0, (3, 1)),
        ((50, 1), 1, (1, 1)),
    ],
)
def test_the_range_of_d_is_by_feature_or_by_channel(shape: tuple[int, ...], kept: int, size: Shape) -> None:
    x = RANDOM.normal(size=(20, *shape)).astype(np.float32)
    box = with_box(declared(*shape, images=False), x)
    assert box.low.shape == box.high.shape == size
    for i in range(shape[kept]):
        part = np.take(x, i, axis=kept + 1)
        assert (np.take(box.low, i, kept).item(), np.take(box.high, i, kept).item()) == (part.min(), part.max())


@pytest.mark.parametrize(
    ("declaration", "size"),
    [((None, 6), (1, 6)), ((6, None), (6, 1)), ((4, 6), (1, 1)), ((None, None), (1, 1))],
)
def test_of_sequences_the_axis_beside_the_length_is_that_of_features(declaration: Shape, size: Shape) -> None:
    x = RANDOM.normal(size=(20, *(6 if axis is None else axis for axis in declaration))).astype(np.float32)
    box = with_box(declared(*declaration, images=False), x)
    assert box.low.shape == size
    assert box.low.min() == x.min()
    assert ((x >= box.low) & (x <= box.high)).all()


def test_where_the_box_comes_from_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    x = np.stack([RANDOM.normal(size=20), np.full(20, 7.0)], axis=1).astype(np.float32)
    box = with_box(declared(2, images=False), x)
    assert (box.low[1], box.high[1]) == (7, 7)
    assert "the range of the calibration set, computed for each of 2 features or channels (axis 1)" in caplog.text
    assert "constant in the calibration set, and thus in the margin search: 1" in caplog.text
    with_box(declared(3, 4, 4), np.zeros((1, 3, 4, 4), np.float32))
    assert "input box: 0.0 to 1.0, which corresponds to pixels from 0 to 255" in caplog.text


def test_arrays_of_another_layout_than_the_preprocessing_are_refused() -> None:
    spec = declared(4, 4, 3, how=Preprocessing(layout="NHWC"), images=False)
    with pytest.raises(InputError, match="for 3 channels"):
        with_box(spec, np.zeros((2, 4, 4, 5), np.float32))
