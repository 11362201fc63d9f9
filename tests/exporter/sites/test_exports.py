"""Every activation as PyTorch's two exporters write it: one site each, on the right axis, that gradients reach."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.exporter.sites import Survey, find_activations, survey
from tests.exporter.sites.exports import export

CHANNELS = 4
WRITTEN = [(False, 9), (False, 13), (False, 17), (False, 18), (False, 20), (True, 18), (True, 20)]
"""Exporters (the newer one: true), and the opsets that they are asked for."""
LEGACY, DYNAMO = (False,), (True,)
BOTH = LEGACY + DYNAMO

Form = tuple[str, Callable[[], nn.Module], tuple[bool, ...], int]
"""ONNX operator, module, exporters that can write it, and from which opset."""


class Formula(nn.Module):
    """An activation that a user wrote out."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FORMS: dict[str, Form] = {
    "relu": ("Relu", nn.ReLU, BOTH, 9),
    "relu6": ("Clip", nn.ReLU6, BOTH, 9),
    "hardtanh": ("Clip", nn.Hardtanh, BOTH, 9),
    "leaky relu": ("LeakyRelu", lambda: nn.LeakyReLU(0.2), BOTH, 9),
    "prelu": ("PRelu", lambda: nn.PReLU(CHANNELS), BOTH, 9),
    "rrelu": ("LeakyRelu", nn.RReLU, LEGACY, 9),
    "elu": ("Elu", lambda: nn.ELU(0.7), BOTH, 9),
    "selu": ("Selu", nn.SELU, BOTH, 9),
    "celu": ("Celu", lambda: nn.CELU(0.5), BOTH, 12),
    "softplus": ("Softplus", nn.Softplus, BOTH, 9),
    "steep softplus": ("Softplus", lambda: nn.Softplus(2.0), BOTH, 9),
    "gelu": ("Gelu", nn.GELU, BOTH, 9),
    "gelu by tanh": ("Gelu", lambda: nn.GELU("tanh"), BOTH, 9),
    "silu": ("Swish", nn.SiLU, BOTH, 9),
    "quick gelu": ("QuickGelu", lambda: Formula(lambda x: x * torch.sigmoid(1.702 * x)), BOTH, 9),
    "hard swish": ("HardSwish", nn.Hardswish, BOTH, 9),
    "hard swish of hard sigmoid": ("HardSwish", lambda: Formula(lambda x: x * F.hardsigmoid(x)), BOTH, 9),
    "hard swish of relu6": ("HardSwish", lambda: Formula(lambda x: x * F.relu6(x + 3) / 6), BOTH, 9),
    "mish": ("Mish", nn.Mish, BOTH, 9),
    "mish written out": ("Mish", lambda: Formula(lambda x: x * torch.tanh(torch.log(1 + torch.exp(x)))), BOTH, 9),
    "threshold": ("ThresholdedRelu", lambda: nn.Threshold(0.3, -1.0), DYNAMO, 9),
    "hard shrink": ("Shrink", nn.Hardshrink, BOTH, 9),
    "soft shrink": ("Shrink", nn.Softshrink, BOTH, 9),
    "tanh shrink": ("Tanhshrink", nn.Tanhshrink, BOTH, 9),
    "softsign": ("Softsign", nn.Softsign, BOTH, 9),
    "log sigmoid": ("LogSigmoid", nn.LogSigmoid, BOTH, 9),
    "tanh": ("Tanh", nn.Tanh, BOTH, 9),
    "sigmoid": ("Sigmoid", nn.Sigmoid, BOTH, 9),
    "hard sigmoid": ("HardSigmoid", nn.Hardsigmoid, BOTH, 9),
    "clamp": ("Clip", lambda: Formula(lambda x: x.clamp(-0.5, 1.5)), BOTH, 9),
    "maximum": ("Relu", lambda: Formula(lambda x: torch.maximum(x, torch.zeros(()))), BOTH, 9),
}


def forms(dynamo: bool, opset: int) -> list[str]:
    """What an exporter can write in an opset."""
    return [name for name, (_, _, exporters, since) in FORMS.items() if dynamo in exporters and opset >= since]


CASES = [(name, dynamo, opset) for dynamo, opset in WRITTEN for name in forms(dynamo, opset)]


class Branches(nn.Module):
    """Each activation between two convolutions of its own, so that none is in another's way."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(self._branch(name) for name in names)
        self.head = nn.Linear(2 * len(names), 5)

    @staticmethod
    def _branch(name: str) -> nn.Module:
        activation = FORMS[name][1]()
        return nn.Sequential(nn.Conv2d(3, CHANNELS, 3), activation, nn.MaxPool2d(2), nn.Conv2d(CHANNELS, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([branch(x).mean((2, 3)) for branch in self.branches], 1))
        return logits


class Exports:
    """One model for an exporter and an opset, written when it is first asked for, and the gradients of its bounds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[bool, int], tuple[Survey, dict[str, Tensor]]] = {}

    def __call__(self, dynamo: bool, opset: int) -> tuple[Survey, dict[str, Tensor]]:
        if (dynamo, opset) not in self.made:
            torch.manual_seed(0)
            network, x = Branches(forms(dynamo, opset)), 2 * torch.randn(4, 3, 9, 9)
            model = export(network, x, self.folder / f"{dynamo}{opset}.onnx", dynamo, opset)
            found = survey(model, "logits")
            self.made[dynamo, opset] = found, gradients(model, [site.value for site in found.sites], x)
        return self.made[dynamo, opset]


def gradients(model: ir.Model, values: list[str], x: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of the logits by each bound, in the middle of its channel's range."""
    graph = DifferentiableGraph(model, "logits")
    ranges = {
        value: torch.stack(torch.aminmax(activation.transpose(0, 1).flatten(1), dim=1))
        for value, activation in graph.record(x, values).items()
    }
    bounds = {value: ends.mean(0).reshape(-1, 1, 1).requires_grad_() for value, ends in ranges.items()}
    (graph(x, bounds) * torch.arange(1.0, 6.0)).sum().backward()
    return {value: bound.grad for value, bound in bounds.items() if bound.grad is not None}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize(("name", "dynamo", "opset"), CASES)
def test_an_activation_has_one_site_that_gradients_reach(exports: Exports, name: str, dynamo: bool, opset: int) -> None:
    found, slopes = exports(dynamo, opset)
    names = forms(dynamo, opset)
    assert len(found.sites) == len(names)
    assert not found.excluded
    site = found.sites[names.index(name)]
    assert (site.operator, site.axis, site.channels, site.places) == (FORMS[name][0], 1, CHANNELS, 49)
    assert slopes[site.value].isfinite().all()
    assert (slopes[site.value] != 0).all()


class Tokens(nn.Module):
    """A small vision transformer: patches by a convolution, attention, two layers by token, and a head with tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.start = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.before, self.between, self.after = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.token = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.start.expand(len(x), -1, -1), x], 1)
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        logits: Tensor = self.head(self.after(x + self.token(self.between(x)))[:, 0])
        return logits


class Mixer(nn.Module):
    """Layers over the places, then over the features of each."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.places = nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16))
        self.features = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.places(x.transpose(1, 2)).transpose(1, 2)
        logits: Tensor = self.head((x + self.features(x)).mean(1))
        return logits


class ChannelsLast(nn.Module):
    """A block of ConvNeXt's kind: a depthwise convolution, then layers with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.inner = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.inner(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def upsampling() -> nn.Module:
    convolution = nn.Conv2d(2, 6, 3, 2, 1)
    start = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.PixelShuffle(2))
    return nn.Sequential(start, convolution, nn.GroupNorm(2, 6), nn.ELU(), nn.Flatten(), nn.Linear(384, 5))


Where = tuple[str, int, int | None]
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], list[Where]]] = {
    "tokens": (Tokens, [("Gelu", -1, 12), ("Tanh", -1, 6)]),
    "mixer": (Mixer, [("Gelu", -1, 10), ("Swish", -1, 12)]),
    "channels last": (ChannelsLast, [("Gelu", -1, 12)]),
    "upsampling": (upsampling, [("Relu", 1, 8), ("Elu", 1, 6)]),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 18)])
def test_channels_of_whole_networks(tmp_path: Path, name: str, dynamo: bool, opset: int) -> None:
    make, expected = ARCHITECTURES[name]
    model = export(make(), torch.randn(2, 3, 16, 16), tmp_path / "model.onnx", dynamo, opset)
    assert [(site.operator, site.axis, site.channels) for site in find_activations(model, "logits")] == expected
