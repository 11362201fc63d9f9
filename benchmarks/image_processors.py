"""Compare mmguard's preprocessed inputs number by number with those of Hugging Face's own image processors.

Needs transformers 4 or 5 on the path, which mmguard does not depend on. `--write` stores Hugging Face's results for the
small cases, and the tests compare with these:

    pip install --no-deps --target /tmp/hf transformers huggingface_hub  # and what the import then names
    PYTHONPATH=/tmp/hf python -m benchmarks.image_processors --write tests/preprocessing/huggingface.json
"""

import argparse
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmguard.inputs.preprocessing import prepare
from mmguard.inputs.preprocessing.huggingface import from_preprocessor_config

Config = dict[str, Any]
Array = NDArray[np.float32]

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

SMALL: dict[str, Config] = {
    "vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": 7, "resample": 2},
    "vit-nearest": {"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 9}, "resample": 0},
    "vit-lanczos": {"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 9}, "resample": 1},
    "vit-box": {"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 9}, "resample": 4},
    "vit-hamming": {"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 9}, "resample": 5},
    "vit-unscaled": {
        **{"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 6}},
        **{"do_rescale": False, "do_normalize": False},
    },
    "vit-not-normalised": {"image_processor_type": "ViTImageProcessor", "size": [6, 8], "do_normalize": False},
    "beit": {
        **{"image_processor_type": "BeitImageProcessor", "size": {"height": 9, "width": 9}, "resample": 3},
        **{"do_center_crop": True, "crop_size": {"height": 6, "width": 5}},
    },
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 12}, "crop_size": 7, **CLIP},
    "clip-upscaled": {"image_processor_type": "CLIPImageProcessor", "size": 26, "crop_size": {"height": 9, "width": 7}},
    "clip-padded": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 6}, "crop_size": 9},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 10, "crop_size": 7, "resample": 3, **IMAGENET},
    "resnet": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 7, "resample": 3, **IMAGENET},
    "convnext": {
        **{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 8}},
        **{"crop_pct": 0.95, "resample": 2},
    },
    "levit": {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 8},
    "poolformer": {"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 8}, "crop_size": 8},
    "poolformer-square": {
        **{"image_processor_type": "PoolFormerImageProcessor", "size": {"height": 8, "width": 8}},
        **{"crop_pct": 0.8, "crop_size": {"height": 7, "width": 8}},
    },
    "mobilenet-1": {"image_processor_type": "MobileNetV1ImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 8},
    "mobilenet-2": {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 11}, "crop_size": 8},
    "mobilevit": {"feature_extractor_type": "MobileViTFeatureExtractor", "size": 9, "crop_size": 8, "resample": 2},
    "efficientnet": {
        **{"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 8, "width": 8}, "resample": 0},
        **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163]},
        **{"include_top": True, "rescale_offset": False},
    },
    "efficientnet-offset": {
        **{"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 8, "width": 8}, "resample": 3},
        **{"include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5},
    },
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 8, "width": 8}, "resample": 3},
    "pvt": {"image_processor_type": "PvtImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2},
    "segformer": {"feature_extractor_type": "SegformerFeatureExtractor", "size": 8, "reduce_labels": False},
}
"""Complete configuration files, as on the hub except for their sizes."""

LARGE: dict[str, Config] = {
    "vit at 224": {"image_processor_type": "ViTImageProcessor"},
    "ConvNeXT at 224": {"image_processor_type": "ConvNextImageProcessor", "size": 224, "resample": 3},
    "ConvNeXT at 384": {"image_processor_type": "ConvNextImageProcessor", "resample": 3},
    "BiT at 224": {"image_processor_type": "BitImageProcessor"},
    "CLIP at 224": {"image_processor_type": "CLIPImageProcessor"},
    "DeiT at 224": {"image_processor_type": "DeiTImageProcessor"},
    "LeViT at 224": {"image_processor_type": "LevitImageProcessor"},
    "PoolFormer at 224": {"image_processor_type": "PoolFormerImageProcessor"},
    "MobileNetV2 at 224": {"image_processor_type": "MobileNetV2ImageProcessor"},
    "MobileViT at 256": {"image_processor_type": "MobileViTImageProcessor", "size": 288, "resample": 2},
}
MODULES = {
    **{"Beit": "beit", "Bit": "bit", "CLIP": "clip", "ConvNext": "convnext", "DeiT": "deit", "Levit": "levit"},
    **{"EfficientNet": "efficientnet", "MobileNetV1": "mobilenet_v1", "MobileNetV2": "mobilenet_v2", "Pvt": "pvt"},
    **{
        "MobileViT": "mobilevit",
        "PoolFormer": "poolformer",
        "Segformer": "segformer",
        "Siglip": "siglip",
        "ViT": "vit",
    },
}
SMALL_SIDES, LARGE_SIDES = ((23, 17), (15, 34)), ((300, 451), (533, 400), (224, 224))
"""Heights and widths of the images."""


def image(height: int, width: int) -> Image.Image:
    """Make a reproducible noise image, in which every pixel shows where it was taken from."""
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def theirs(config: Config, picture: Image.Image) -> Array:
    """Preprocess an image with the library's own Pillow processor: float32 (C, H, W)."""
    kind = re.sub("(ImageProcessor|FeatureExtractor)$", "", next(v for k, v in config.items() if k.endswith("_type")))
    name = f"{kind}ImageProcessor"
    module = f"transformers.models.{MODULES[kind]}.image_processing_"
    try:
        processor = getattr(importlib.import_module(f"{module}pil_{MODULES[kind]}"), f"{name}Pil")
    except ModuleNotFoundError:  # transformers 4, where the Pillow class has the plain name
        processor = getattr(importlib.import_module(module + MODULES[kind]), name)
    made = processor.from_dict({key: value for key, value in config.items() if not key.endswith("_type")})
    found: Array = made(picture, return_tensors="np")["pixel_values"][0].astype(np.float32)
    return found


def ours(config: Config, picture: Image.Image) -> Array:
    """Preprocess an image with mmguard."""
    return prepare(picture, from_preprocessor_config(config))


def main() -> None:
    """Print the largest difference in each case, and write the small cases if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    options, kept = parser.parse_args(), []
    for cases, sides in ((SMALL, SMALL_SIDES), (LARGE, LARGE_SIDES)):
        for name, config in cases.items():
            for height, width in sides:
                expected = theirs(config, image(height, width))
                difference = np.abs(ours(config, image(height, width)) - expected).max()
                print(f"{name:20} {height:4} x {width:<4} to {expected.shape!s:14} differs by at most {difference:.2g}")
                if cases is SMALL:
                    values = [float(f"{value:.7g}") for value in expected.ravel().tolist()]
                    kept.append({"case": name, "from": [height, width], "shape": expected.shape, "values": values})
    if options.write:
        version = importlib.import_module("transformers").__version__
        lines = ",\n".join(map(json.dumps, kept))
        options.write.write_text(f'{{"transformers": "{version}", "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
