"""The differentiable graph against the networks that its models were exported from.

The exporter that is built on torch.export writes opset 18 where it cannot convert to the 17 that it is asked for.
"""

import warnings
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from mmguard.calibrate.graph.differentiable import DifferentiableGraph

LEGACY, DYNAMO = (9, 13, 17, 18, 20), (17, 18, 20, 26)


class Residual(nn.Module):
    """A block of ResNet's kind: the shortcut is a convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class Inverted(nn.Module):
    """A block of MobileNet's kind, with squeeze and excitation where asked for."""

    def __init__(self, channels: int, activation: type[nn.Module], excite: bool) -> None:
        super().__init__()
        wide = channels * 2
        depthwise = nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False)
        self.spread = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), activation())
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), activation())
        gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide, 1), nn.Hardsigmoid())
        self.gate = gate if excite else None
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.depthwise(self.spread(x))
        gated: Tensor = inner if self.gate is None else inner * self.gate(inner)
        result: Tensor = x + self.project(gated)
        return result


class Dense(nn.Module):
    """A block of DenseNet's kind: what it makes is put beside what it got."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.grow = nn.Sequential(nn.BatchNorm2d(channels), nn.SiLU(), nn.Conv2d(channels, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(x)], 1)


class Transformer(nn.Module):
    """Patches and a class token through one layer of a vision transformer."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, features, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, features))
        self.layer = nn.TransformerEncoderLayer(features, 4, 32, batch_first=True, activation="gelu", norm_first=True)
        self.linear = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1)
        result: Tensor = self.linear(self.layer(tokens)[:, 0])
        return result


class ShapedHead(nn.Module):
    """A head that reads the shape of its input, so that exporters write it as arithmetic on Shape."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]))  # type: ignore[no-any-return]


class MeanHead(nn.Module):
    """A head on the mean over space."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean([2, 3]))  # type: ignore[no-any-return]


def pooled_head(features: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 5))


def stem(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), activation)


def network(name: str) -> nn.Module:
    """A small classifier of 3 x 16 x 16 inputs into 5 classes, its normalisations not at their defaults."""
    torch.manual_seed(0)
    pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    networks: dict[str, list[nn.Module]] = {
        "resnet": [stem(nn.ReLU()), pool, Residual(8, 8, 1), Residual(8, 16, 2), pooled_head(16)],
        "vgg": [stem(nn.ELU(0.7)), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ELU(), nn.Dropout(), ShapedHead(288)],
        "mobilenet_v2": [stem(nn.ReLU6()), Inverted(8, nn.ReLU6, False), MeanHead(8)],
        "mobilenet_v3": [stem(nn.Hardswish()), Inverted(8, nn.Hardswish, True), pooled_head(8)],
        "densenet": [stem(nn.LeakyReLU(0.2)), Dense(8), nn.AvgPool2d(3, 2, 1), Dense(12), nn.GELU(), MeanHead(16)],
        "transformer": [Transformer(16)],
        "normalised": [stem(nn.PReLU(8)), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), ShapedHead(2048)],
    }
    model = nn.Sequential(*networks[name]).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model


def export(model: nn.Module, path: Path, dynamo: bool, opset: int) -> ir.Model:
    """Exports with batch 2 and a dynamic batch axis; the file's values are `x` and `logits`."""
    batch = {"x": {0: "n"}}
    dynamic = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": batch}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randn(2, 3, 16, 16),),
            path,
            input_names=["x"],
            output_names=["logits"],
            opset_version=opset,
            dynamo=dynamo,
            verbose=False,
            **dynamic,
        )
    return ir.load(path)


def cases() -> list[tuple[str, bool, int]]:
    """The four common kinds at every opset, the others at one."""
    kinds = ("resnet", "vgg", "mobilenet_v2", "mobilenet_v3")
    every = [(kind, dynamo, opset) for kind in kinds for dynamo in (False, True) for opset in (LEGACY, DYNAMO)[dynamo]]
    attention = [("transformer", dynamo, opset) for dynamo, opset in ((False, 17), (True, 18), (True, 23))]
    return every + attention + [(kind, dynamo, 18) for kind in ("densenet", "normalised") for dynamo in (False, True)]


def gradient(outputs: Tensor, x: Tensor) -> Tensor:
    (result,) = torch.autograd.grad((outputs * torch.arange(1.0, 6.0)).sum(), x)
    return result


@pytest.mark.parametrize(("name", "dynamo", "opset"), cases())
def test_equals_the_exported_network(name: str, dynamo: bool, opset: int, tmp_path: Path) -> None:
    source = network(name)
    graph = DifferentiableGraph(export(source, tmp_path / "model.onnx", dynamo, opset), "logits")
    for batch in (1, 5):
        x = torch.randn(batch, 3, 16, 16, requires_grad=True)
        expected, actual = source(x), graph(x)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient(actual, x), gradient(expected, x), rtol=1e-4, atol=1e-5)
