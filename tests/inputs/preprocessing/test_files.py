import json
from pathlib import Path
from typing import Any

import pytest

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing import read_preprocessing
from mmguard.inputs.preprocessing.huggingface import from_preprocessor_config
from mmguard.inputs.preprocessing.timm import from_data_config

HUGGING_FACE = {"image_processor_type": "ViTImageProcessor", "size": 96}
TIMM = {"input_size": [3, 96, 96], "crop_pct": 0.9}


def save(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HUGGING_FACE, from_preprocessor_config(HUGGING_FACE)),
        ({"image_processor": HUGGING_FACE, "processor_class": "X"}, from_preprocessor_config(HUGGING_FACE)),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 96}, from_preprocessor_config(HUGGING_FACE)),
        ({"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": TIMM}, from_data_config(TIMM)),
        ({"architecture": "resnet18", "num_classes": 10, **TIMM}, from_data_config(TIMM)),
        (TIMM, from_data_config(TIMM)),
    ],
)
def test_each_kind_of_file_is_known_by_its_fields(tmp_path: Path, content: Any, expected: object) -> None:
    assert read_preprocessing(save(tmp_path / "config.json", content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ([1], "expected a JSON object, got list"),
        ({"image_mean": [0.5], "size": 96}, "the file has no image_processor_type, which determines the defaults"),
        (
            {"model_type": "vit", "architectures": ["ViT"]},
            "pass the preprocessor_config.json that comes with the model",
        ),
        (
            {"some": "thing"},
            "expected a file from Hugging Face .* or timm .*, but the file has none of these fields; use --mean",
        ),
        (HUGGING_FACE | {"do_pad": True}, r"a\.json: mmguard does not support do_pad in"),
    ],
)
def test_other_files_are_refused_with_their_name(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        read_preprocessing(save(tmp_path / "a.json", content))
    assert str(refused.value).startswith(f"--preprocess {tmp_path / 'a.json'}")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\xff" * 100)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**24 + 1)
    for name, message in (("absent", "cannot be read"), ("weights", "is not valid JSON"), ("large", "too large")):
        with pytest.raises(OptionError, match=message):
            read_preprocessing(tmp_path / name)
