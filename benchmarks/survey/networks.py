"""The networks of the survey: small, with random weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
SMALL_SIDE = 96
"""Side of an image in pixels, for networks that accept it; others get the size that they were made for."""
MAX_PARAMETERS = 150e6
NOISE = 8
"""Number of inputs that set the statistics of batch norms."""
SHALLOW: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    {"depths": (1, 1, 1, 1)},
    {"depths": (1, 1, 1)},
    {"layers": (1, 1, 1, 1)},
    {},
)
"""Options that make timm networks shallow, with each kind of block once; the first that a network accepts is used."""


@dataclass(frozen=True)
class Candidate:
    """One network of a family.

    Attributes:
        source: library that it comes from.
        family: family in that library.
        name: name of the network in that library.
        options: options that make it smaller than usual.
        make: builds the network.
        shape: input shape (C, H, W).
    """

    source: str
    family: str
    name: str
    options: dict[str, Any]
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]


@torch.no_grad()
def settled(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Set the statistics of a network's batch norms from noise, and return the network.

    With random weights, the signal would vanish otherwise.
    """
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # average over all batches, here one
            part.train()
    network(torch.randn(NOISE, *shape))
    return network.eval()


@torch.no_grad()
def randomised(network: nn.Module) -> nn.Module:
    """Randomise the weights of a network that have the same value everywhere, and return the network.

    A branch contributes nothing if its last scale is initialised to about 0, and then no bound in it matters.
    """
    for name, weight in network.named_parameters():
        if bool((weight == weight.flatten()[0]).all()):
            weight.normal_(0.0 if name.endswith("bias") else 1.0, 0.1)
    return network.eval()


class Scores(nn.Module):
    """A classifier of transformers that only returns its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K)."""
        logits: Tensor = self.network(pixel_values=x).logits
        return logits


def timm_families() -> list[str]:
    """Return the names of timm's modules, each of which is a family."""
    import timm

    return sorted(timm.list_modules())


def timm_candidate(family: str) -> Candidate:
    """Return the smallest network of a family.

    Raises:
        LookupError: no network can be built, or all are too large.
    """
    import timm

    sizes = {name: size for name in timm.list_models(module=family) if (size := _parameters(name)) is not None}
    if not sizes:
        raise LookupError("no network of the family can be built")
    name = min(sizes, key=lambda each: (sizes[each], each))
    config = timm.get_pretrained_cfg(name)
    shape = tuple(config.input_size) if config is not None else (3, 224, 224)
    small = (shape[0], SMALL_SIDE, SMALL_SIDE)
    for depth in SHALLOW:
        for options, taken in (({"img_size": SMALL_SIDE} | depth, small), (depth, small), (depth, shape)):
            if _takes(name, options, taken):
                return Candidate("timm", family, name, options, partial(_timm, name, options), taken)
    raise LookupError(f"{name} does not accept images of {shape}, or has more than {MAX_PARAMETERS:.0f} parameters")


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return randomised(timm.create_model(name, num_classes=CLASSES, **options))


def _parameters(name: str) -> int | None:
    import timm

    try:
        with torch.device("meta"):
            weights = timm.create_model(name, num_classes=CLASSES).parameters()
            return sum(int(weight.numel()) for weight in weights)
    except Exception:  # some cannot be built on the meta device
        return None


def _takes(name: str, options: dict[str, Any], shape: tuple[int, int, int]) -> bool:
    try:
        with torch.no_grad():
            network = _timm(name, options)
            small = sum(weight.numel() for weight in network.parameters()) <= MAX_PARAMETERS
            return small and bool(network(torch.zeros(2, *shape)).shape == (2, CLASSES))
    except Exception:  # third-party code may raise anything
        return False


SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "Beit": SMALL | {"image_size": 64},
    "Bit": {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16, "num_groups": 4},
    "ConvNext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "ConvNextV2": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "Cvt": {},
    "Data2VecVision": SMALL | {"image_size": 64},
    "DeiT": SMALL | {"image_size": 64},
    "Dinov2": {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "image_size": 56},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320, "initializer_range": 0.5},
    "FocalNet": {"embed_dim": 16, "image_size": 64},
    "HGNetV2": {},
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "MobileViT": {"image_size": 64},
    "MobileViTV2": {"image_size": 64},
    "PoolFormer": {"hidden_sizes": [16, 24, 32, 48]},
    "Pvt": {"image_size": 64},
    "PvtV2": {"image_size": 64},
    "RegNet": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "groups_width": 8},
    "ResNet": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "Segformer": {"hidden_sizes": [16, 24, 32, 48]},
    "SwiftFormer": {},
    "Swin": {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "image_size": 64, "window_size": 2},
    "Swinv2": {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "image_size": 64, "window_size": 2},
    "TextNet": {},
    "ViT": SMALL | {"image_size": 64},
    "ViTMSN": SMALL | {"image_size": 64},
}
"""Settings that make the image classifiers of transformers small, by class prefix."""


def transformers_families() -> list[str]:
    """Return the prefixes of the classes `…ForImageClassification` in transformers."""
    import transformers

    return [name for name in TRANSFORMERS if hasattr(transformers, f"{name}ForImageClassification")]


def transformers_candidate(family: str) -> Candidate:
    """Return a small network of a class."""
    import transformers

    config = getattr(transformers, f"{family}Config")(num_labels=CLASSES, **TRANSFORMERS[family])
    side = getattr(config, "image_size", 64)
    side = side if isinstance(side, int) and "image_size" in TRANSFORMERS[family] else 64

    def make() -> nn.Module:
        network = getattr(transformers, f"{family}ForImageClassification")(config)
        return randomised(Scores(network))

    name = f"{family}ForImageClassification"
    return Candidate("transformers", family, name, TRANSFORMERS[family], make, (3, side, side))


def candidates() -> Iterator[tuple[str, str, Callable[[], Candidate]]]:
    """Yield source, family, and a function that makes the candidate."""
    for family in timm_families():
        yield "timm", family, partial(timm_candidate, family)
    for family in transformers_families():
        yield "transformers", family, partial(transformers_candidate, family)
