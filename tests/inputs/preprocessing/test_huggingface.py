"""Against outputs of transformers' own processors, stored by `python -m benchmarks.image_processors --write`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.image_processors import SMALL, SMALL_SIDES, image, ours
from mmguard.errors import OptionError
from mmguard.inputs.preprocessing.huggingface import from_preprocessor_config
from mmguard.inputs.preprocessing.processors import PROCESSORS
from mmguard.inputs.spec import Preprocessing

CASES = json.loads(Path(__file__).with_name("huggingface.json").read_text(encoding="utf-8"))["cases"]
HALF, IMAGENET = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def parsed(kind: str, **fields: Any) -> Preprocessing:
    return from_preprocessor_config({"image_processor_type": kind, **fields})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['from'][0]}")
def test_inputs_equal_those_of_transformers(case: dict[str, Any]) -> None:
    expected = np.array(case["values"], np.float32).reshape(case["shape"])
    np.testing.assert_allclose(ours(SMALL[case["case"]], image(*case["from"])), expected, rtol=1e-6, atol=1e-6)


def test_there_is_a_case_of_every_class_and_image() -> None:
    assert {(case["case"], tuple(case["from"])) for case in CASES} == {
        (name, sides) for name in SMALL for sides in SMALL_SIDES
    }
    kinds = {value for config in SMALL.values() for key, value in config.items() if key.endswith("_type")}
    assert {kind.replace("FeatureExtractor", "ImageProcessor") for kind in kinds} == set(PROCESSORS)


def test_missing_and_null_fields_are_the_defaults_of_the_class() -> None:
    bit: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
    common: dict[str, Any] = {"crop_rounding": "floor", "layout": "auto"}
    assert parsed("ViTImageProcessor", size=None, do_resize=None) == Preprocessing(
        size=(224, 224), mean=HALF, std=HALF, **common
    )
    assert parsed("BitImageProcessor") == Preprocessing(
        shortest_edge=224, crop=(224, 224), interpolation="bicubic", **bit, **common
    )
    assert parsed("ConvNextImageProcessor", resample=3) == Preprocessing(
        size=(384, 384), mean=HALF, std=HALF, interpolation="bicubic", **common
    )
    assert parsed("ConvNextImageProcessor", resample=3, size=224) == Preprocessing(
        shortest_edge=256, crop=(224, 224), mean=HALF, std=HALF, interpolation="bicubic", **common
    )
    assert parsed("LevitImageProcessor") == Preprocessing(
        *("RGB", None, 1 / 255, *IMAGENET), shortest_edge=256, crop=(224, 224), interpolation="bicubic", **common
    )
    assert parsed("MobileViTImageProcessor", resample=2) == Preprocessing(
        shortest_edge=224, crop=(256, 256), channel_order="BGR", **common
    )


def test_flags_that_are_off_leave_their_step_out() -> None:
    off = parsed("CLIPImageProcessor", do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    assert off == Preprocessing(scale=1, crop_rounding="floor", layout="auto")
    assert parsed("MobileViTImageProcessor", resample=2, do_flip_channel_order=False).channel_order == "RGB"


def test_fields_that_move_no_pixel_are_passed_over() -> None:
    without = {"processor_class": "CLIPProcessor", "do_reduce_labels": True, "do_pad": False, "do_sharpen": None}
    assert parsed("ViTImageProcessor", **without, data_format="channels_first") == parsed("ViTImageProcessor")


def test_a_processor_on_torchvision_is_read_as_that_on_pillow(caplog: pytest.LogCaptureFixture) -> None:
    assert parsed("ViTImageProcessorFast") == parsed("ViTImageProcessor")
    assert "resizes with torchvision" in caplog.text


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            "DetrImageProcessor",
            {},
            "does not support image_processor_type 'DetrImageProcessor', only BeitImageProcessor",
        ),
        ("ViTImageProcessor", {"do_pad": True}, "does not support do_pad in ViTImageProcessor; prepare the images"),
        ("ViTImageProcessor", {"sharpen": 2, "blur": 1}, "does not support blur, sharpen in"),
        ("ViTImageProcessor", {"crop_pct": 0.9}, "does not support crop_pct in"),
        ("ViTImageProcessor", {"auto_map": {"AutoImageProcessor": "their.Own"}}, "does not support auto_map in"),
        ("ViTImageProcessor", {"data_format": "channels_last"}, "does not support data_format in"),
        (
            "ViTImageProcessor",
            {"size": {"longest_edge": 224}},
            "size must be a length, a height and width, or a shortest",
        ),
        ("ViTImageProcessor", {"size": {"shortest_edge": 224, "longest_edge": 400}}, "size must be"),
        ("ViTImageProcessor", {"size": [224]}, "size height must be a positive number of pixels"),
        ("ViTImageProcessor", {"size": {"height": 224.5, "width": 224}}, "size height must be"),
        ("ViTImageProcessor", {"size": 0}, "size height must be"),
        ("ViTImageProcessor", {"size": True}, "size height must be"),
        ("ViTImageProcessor", {"resample": 6}, "resample must be the number of a Pillow filter, from 0 to 5, got 6"),
        ("ViTImageProcessor", {"resample": "bicubic"}, "resample must be"),
        ("ViTImageProcessor", {"do_resize": "yes"}, "do_resize must be true or false"),
        ("ViTImageProcessor", {"image_mean": [0.1, 0.2]}, "image_mean must be one number or three"),
        ("ViTImageProcessor", {"image_mean": ["a", "b", "c"]}, "image_mean must be a finite number"),
        ("ViTImageProcessor", {"image_mean": [float("nan")]}, "image_mean must be a finite number"),
        ("ViTImageProcessor", {"image_std": 0}, "std and scale must be positive"),
        ("ViTImageProcessor", {"rescale_factor": 0}, "std and scale must be positive"),
        ("ViTImageProcessor", {"do_center_crop": True}, "do_center_crop needs a crop_size"),
        ("BitImageProcessor", {"crop_size": {"shortest_edge": 9}}, "crop_size must be a height and a width"),
        (
            "ConvNextImageProcessor",
            {"resample": 3, "size": {"height": 9, "width": 9}},
            "size must be a shortest_edge",
        ),
        ("ConvNextImageProcessor", {"resample": 3, "crop_pct": 1.5}, "crop_pct must be above 0 and at most 1"),
        (
            "ConvNextImageProcessor",
            {"resample": 3, "do_center_crop": True, "crop_size": 9},
            "does not support do_center_crop in",
        ),
        ("ConvNextImageProcessor", {}, "no resample, and the default .* differs between versions of transformers"),
        ("BeitImageProcessor", {"size": 224}, "the file has no do_center_crop, and the default"),
        (
            "MobileViTImageProcessor",
            {"resample": 2, "do_normalize": True},
            "MobileViT.* does not normalise, but the file has do_normalize",
        ),
    ],
)
def test_unsupported_fields_are_refused_by_name(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parsed(kind, **fields)
