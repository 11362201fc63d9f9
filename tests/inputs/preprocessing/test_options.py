import json
from pathlib import Path
from typing import Any

import pytest

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing import PreprocessingOptions
from mmguard.inputs.spec import Preprocessing


def test_nothing_given_is_no_preprocessing() -> None:
    assert PreprocessingOptions().preprocessing() is None


def test_every_option_has_its_field() -> None:
    assert PreprocessingOptions(
        **{"mean": [0.5], "std": [0.1, 0.2, 0.3], "scale": 1, "layout": "NHWC", "size": "224x192", "crop": "200x180"},  # type: ignore[arg-type]
        **{"interpolation": "lanczos", "channel_order": "BGR"},  # type: ignore[arg-type]
    ).preprocessing() == Preprocessing(
        *("RGB", (224, 192), 1, (0.5,), (0.1, 0.2, 0.3), "NHWC"),
        **{"interpolation": "lanczos", "crop": (200, 180), "channel_order": "BGR"},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"size": "256"}, {"size": (256, 256)}),
        ({"size": "256x192"}, {"size": (256, 192)}),
        ({"size": "256", "crop": "224"}, {"shortest_edge": 256, "crop": (224, 224)}),
        ({"size": "256x256", "crop": "224"}, {"size": (256, 256), "crop": (224, 224)}),
        ({"crop": "224x192"}, {"crop": (224, 192)}),
        ({"mean": [0.0]}, {"mean": (0.0,)}),
    ],
)
def test_one_length_is_the_shortest_edge_where_there_is_a_crop(options: Any, fields: Any) -> None:
    assert PreprocessingOptions(**options).preprocessing() == Preprocessing(**fields, layout="auto")


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {}),
        ({"size": "300"}, {"shortest_edge": 300}),
        ({"size": "300x280"}, {"shortest_edge": None, "size": (300, 280)}),
        ({"crop": "200"}, {"crop": (200, 200)}),
        ({"mean": [0.1, 0.2, 0.3], "std": [1.0]}, {"mean": (0.1, 0.2, 0.3), "std": (1.0,)}),
        (
            {"interpolation": "box", "layout": "NHWC", "scale": 2},
            {"interpolation": "box", "layout": "NHWC", "scale": 2},
        ),
    ],
)
def test_options_override_the_file(tmp_path: Path, options: Any, fields: dict[str, Any]) -> None:
    config = {"image_processor_type": "MobileNetV1ImageProcessor"}
    (tmp_path / "a.json").write_text(json.dumps(config), encoding="utf-8")
    read: dict[str, Any] = {"shortest_edge": 256, "crop": (224, 224), "crop_rounding": "floor", "layout": "auto"}
    read |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert PreprocessingOptions(preprocess=tmp_path / "a.json", **options).preprocessing() == Preprocessing(
        **read | fields
    )


@pytest.mark.parametrize(
    "options",
    [
        *({"size": "0"}, {"size": "1x2x3"}, {"size": "big"}, {"size": ""}, {"crop": "-1"}, {"crop": "1000000"}),
        *(
            {"mean": [1, 2]},
            {"mean": [float("nan")]},
            {"std": [0]},
            {"std": [-1]},
            {"scale": 0},
            {"scale": float("inf")},
        ),
        *({"scale": float("inf")}, {"layout": "CHW"}, {"interpolation": "cubic"}, {"channel_order": "GBR"}),
    ],
)
def test_options_that_make_no_preprocessing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        PreprocessingOptions(**options).preprocessing()


@pytest.mark.parametrize("size", ["200", "224x200"])
def test_a_crop_that_is_larger_than_the_image_is_warned_of(size: str, caplog: pytest.LogCaptureFixture) -> None:
    PreprocessingOptions(size=size, crop="224").preprocessing()
    assert "the crop of 224 x 224 is larger than the resized images" in caplog.text


def test_a_crop_that_fits_is_not(caplog: pytest.LogCaptureFixture) -> None:
    PreprocessingOptions(size="224", crop="224").preprocessing()
    assert not caplog.text


def test_a_size_and_a_shortest_edge_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="are both set; set only one of them"):
        Preprocessing(size=(4, 4), shortest_edge=4)
