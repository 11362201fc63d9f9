from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.evaluate import export
from benchmarks.suspect import Suspect, predict
from benchmarks.training.networks import NETWORKS, resnet, wide_resnet
from benchmarks.training.transformer import Attention
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.sites import find_activations
from tests.benchmarks.synthetic import images_and_labels

every_network = pytest.mark.parametrize("name", sorted(NETWORKS))
every_kind = pytest.mark.parametrize(
    ("name", "activations"), [("resnet18", 17), ("wrn16_1", 13), ("mobilenetv2_035", 27), ("vit64_4", 5)]
)


def basic(inputs: int, outputs: int, changes: bool) -> int:
    """Parameters of two 3x3 convolutions, their normalisations, and a shortcut where the shape changes."""
    return 9 * (inputs + outputs) * outputs + 4 * outputs + (inputs * outputs + 2 * outputs if changes else 0)


def preactivated(inputs: int, outputs: int, changes: bool) -> int:
    """The same with normalisations before the convolutions, and none on the shortcut."""
    return 9 * (inputs + outputs) * outputs + 2 * (inputs + outputs) + (inputs * outputs if changes else 0)


def test_resnet18_has_the_parameters_of_the_closed_form() -> None:
    stem, head = 3 * 64 * 9 + 2 * 64, 512 * 10 + 10
    stages = [basic(64, 64, False) * 2]
    stages += [basic(n, 2 * n, True) + basic(2 * n, 2 * n, False) for n in (64, 128, 256)]
    assert parameters(NETWORKS["resnet18"](10)) == stem + sum(stages) + head
    assert parameters(NETWORKS["resnet18"](10)) == pytest.approx(11.17e6, rel=1e-3)  # as published for CIFAR-10


def test_wrn16_1_has_the_parameters_of_the_closed_form() -> None:
    stem, last, head = 3 * 16 * 9, 2 * 64, 64 * 10 + 10
    stages = [preactivated(16, 16, False) * 2]
    stages += [preactivated(n, 2 * n, True) + preactivated(2 * n, 2 * n, False) for n in (16, 32)]
    assert parameters(NETWORKS["wrn16_1"](10)) == stem + sum(stages) + last + head
    assert parameters(NETWORKS["wrn16_1"](10)) == pytest.approx(0.175e6, rel=1e-2)  # as published for CIFAR-10


def test_mobilenet_has_the_parameters_of_the_closed_form() -> None:
    def block(inputs: int, outputs: int, expansion: int) -> int:
        inner = expansion * inputs
        widen = (inputs + 2) * inner if expansion > 1 else 0
        return widen + (9 + 2) * inner + (inner + 2) * outputs

    stem, last, head = 3 * 12 * 9 + 2 * 12, (36 + 2) * 144, 144 * 10 + 10
    stages = [block(12, 8, 1), block(8, 12, 6), block(12, 12, 6) * 3, block(12, 24, 6)]  # 12 for widths 24 and 32
    stages += [block(24, 24, 6) * 3, block(24, 36, 6), block(36, 36, 6) * 2]
    assert len(NETWORKS["mobilenetv2_035"](10).blocks) == 13  # type: ignore[arg-type]
    assert parameters(NETWORKS["mobilenetv2_035"](10)) == stem + sum(stages) + block(12, 12, 6) + last + head


def test_the_transformer_has_the_parameters_of_the_closed_form() -> None:
    width, hidden = 64, 128
    stem = 9 * 3 * 32 + 2 * 32 + (9 * 32 + 1) * width
    attention = (width + 1) * 3 * width + (width + 1) * width
    block = 4 * width + attention + (width + 1) * hidden + (hidden + 1) * width
    position, last, head = 8 * 8 * width, 2 * width, (width + 1) * 10
    assert parameters(NETWORKS["vit64_4"](10)) == stem + position + 4 * block + last + head


def test_attention_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(64), nn.MultiheadAttention(64, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.project_in.weight,
            "in_proj_bias": ours.project_in.bias,
            "out_proj.weight": ours.project_out.weight,
            "out_proj.bias": ours.project_out.bias,
        }
    )
    x = torch.randn(2, 5, 64)
    expected, _ = theirs(x, x, x)
    torch.testing.assert_close(ours(x), expected)  # equal but for rounding


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@every_network
def test_the_parts_that_defences_use(name: str) -> None:
    network = NETWORKS[name](7).eval()
    assert isinstance(network.blocks, nn.Sequential)
    assert isinstance(network.head, nn.Linear)
    assert isinstance(network.stem, nn.Module)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@every_network
def test_normalisations_are_held_in_the_order_of_the_forward_pass(name: str) -> None:
    network, met = NETWORKS[name](10).eval(), []
    held = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in held:
        module.register_forward_hook(lambda module, inputs, output: met.append(module))
    network(torch.zeros(1, 3, 32, 32))
    assert [id(module) for module in met] == [id(module) for module in held]


def test_a_wide_resnet_halves_the_image_twice_and_widens() -> None:
    network = wide_resnet(16, 2)
    shapes = []
    for block in network.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(2, 3, 32, 32))
    assert shapes == [(32, 32, 32)] * 2 + [(64, 16, 16)] * 2 + [(128, 8, 8)] * 2


@every_kind
def test_an_exported_network_is_reloaded_equal(name: str, activations: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name](10)
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))  # so that the normalisations have statistics of their own
    export(network, tmp_path / "network.onnx")
    record = {"recipe": {"network": name}, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    suspect = Suspect(tmp_path / "network.onnx", record)
    reloaded = suspect.module()[1]  # type: ignore[index]
    for key, value in network.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(reloaded.state_dict()[key], value)
    x, _ = images_and_labels(8, 0)
    assert np.allclose(predict(suspect.module(), x), suspect.logits(x), atol=1e-4)
    classifier = read_classifier(suspect.path)
    assert len(find_activations(classifier.model, classifier.output.logits)) == activations


@pytest.mark.parametrize("depth", [8, 15, 4])
def test_depths_that_no_wide_resnet_has(depth: int) -> None:
    with pytest.raises(ValueError, match="6n"):
        wide_resnet(depth, 1)


@pytest.mark.parametrize("depth", [2, 16, 21])
def test_depths_that_no_cifar_resnet_has(depth: int) -> None:
    with pytest.raises(ValueError, match="6n"):
        resnet(depth)
