"""Against timm's evaluation pipeline, whose resizing and cropping are torchvision's, written here with Pillow."""

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing import prepare
from mmguard.inputs.preprocessing.timm import from_data_config, from_pretrained_cfg
from mmguard.inputs.spec import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESNET50 = {
    **{"tag": "a1_in1k", "custom_load": False, "input_size": [3, 224, 224], "test_input_size": [3, 288, 288]},
    **{"fixed_input_size": False, "interpolation": "bicubic", "crop_pct": 0.95, "test_crop_pct": 1.0},
    **{"crop_mode": "center", "mean": list(MEAN), "std": list(STD), "num_classes": 1000, "pool_size": [7, 7]},
    **{"first_conv": "conv1", "classifier": "fc", "origin_url": "https://example.org", "license": "apache-2.0"},
}
"""As it is on the hub."""


def test_a_pretrained_cfg_is_a_shortest_edge_and_a_crop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert from_pretrained_cfg(RESNET50) == Preprocessing(
        *("RGB", None, 1 / 255, MEAN, STD, "auto"),
        **{"shortest_edge": 235, "crop": (224, 224), "interpolation": "bicubic", "crop_rounding": "even"},  # type: ignore[arg-type]
    )
    assert "ignoring timm's test_input_size [3, 288, 288]" in caplog.text


def test_what_is_missing_is_timms_default() -> None:
    assert from_pretrained_cfg({"architecture": "x"}) == from_data_config(
        {
            **{"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"},
            **{"mean": list(MEAN), "std": list(STD)},
        }
    )


def test_squash_resizes_both_sides_and_one_channel_has_one_mean() -> None:
    config = {"input_size": [1, 30, 20], "crop_pct": 0.9, "crop_mode": "squash", "mean": [0.5], "std": [0.5]}
    found = from_data_config(config)
    assert (found.size, found.crop, found.mean, found.std) == ((33, 22), (30, 20), (0.5,), (0.5,))


@pytest.mark.parametrize(("height", "width"), [(40, 61), (53, 40), (31, 31)])
@pytest.mark.parametrize("crop_pct", [0.8, 0.9, 1.0])
def test_inputs_equal_those_of_the_pipeline(height: int, width: int, crop_pct: float) -> None:
    config = {"input_size": [3, 24, 24], "interpolation": "bicubic", "crop_pct": crop_pct, "mean": MEAN, "std": STD}
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    edge = math.floor(24 / crop_pct)
    if width <= height:  # torchvision's Resize
        resized = picture.resize((edge, int(edge * height / width)), Image.Resampling.BICUBIC)
    else:
        resized = picture.resize((int(edge * width / height), edge), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 24) / 2.0), round((resized.height - 24) / 2.0)  # its CenterCrop
    pixels = np.asarray(resized.crop((left, top, left + 24, top + 24))).astype(np.float32) / np.float32(255)
    expected = (pixels.transpose(2, 0, 1) - column(MEAN)) / column(STD)
    np.testing.assert_array_equal(prepare(picture, from_data_config(config)), expected)


def column(numbers: tuple[float, ...]) -> Any:
    return np.array(numbers, np.float32).reshape(3, 1, 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": [3, 224]}, "input_size must consist of 1 or 3 channels, a height and a width"),
        ({"input_size": [4, 224, 224]}, "input_size must consist of"),
        ({"input_size": [3, 224, -1]}, "input_size must be a positive number"),
        ({"input_size": [3, 224, 192]}, "'center' with an input_size of 224 x 192, which is not square"),
        ({"crop_mode": "border"}, "does not support timm's crop_mode 'border'"),
        ({"crop_pct": 1.2}, "crop_pct must be above 0 and at most 1"),
        ({"interpolation": "random"}, "interpolation must be one of nearest, .*, got 'random'"),
        ({"mean": [1, 2]}, "mean must be one number or three"),
        ({"std": [0, 0, 0]}, "std and scale must be positive"),
        ({"crop_border_pixels": 4}, "does not support timm's crop_border_pixels"),
    ],
)
def test_unsupported_fields_are_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        from_data_config(config)
