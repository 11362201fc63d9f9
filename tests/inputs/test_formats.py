"""One backdoored digit classifier in every form in which people deploy theirs: each guard detects its backdoor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

import mmguard
from mmguard.demo import digits
from mmguard.demo.digits import SIDE, Split
from mmguard.runtime.batches import run_session

pytestmark = pytest.mark.heavy

Array = NDArray[Any]


class Binary(nn.Module):
    """Sigmoid of one number: whether a digit is at least 5, by a network that was trained for that."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.network(x))


class FromBytes(nn.Module):
    """Takes pixels of 0 to 255 as they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x.to(torch.float32) / 255)
        return scores


class ChannelsLast(nn.Module):
    """Takes (N, H, W, C)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x.permute(0, 3, 1, 2))
        return scores


@dataclass(frozen=True)
class Form:
    """How the classifier is deployed.

    Attributes:
        write: writes `model.onnx` into a folder. prepare: images (N, 16, 16) uint8 to inputs.
        binary: whether it tells digits below 5 from the others; 0 is the target either way.
        success: share of triggered digits that must get the attacker's label without a guard.
    """

    write: Callable[[Path], None]
    prepare: Callable[[NDArray[np.uint8]], Array]
    binary: bool = False
    success: float = 0.9


@cache
def splits() -> tuple[Split, Split, Split]:
    return digits.load(0)


@cache
def network() -> nn.Module:
    """The demo's backdoored classifier of ten digits."""
    return digits.train_network(digits.poison(splits()[0], 0), 0)


@cache
def binary_network() -> nn.Module:
    """The same layers and one output: a digit of at least 5, where the patch says that it is not."""
    torch.manual_seed(0)
    poisoned = digits.poison(splits()[0], 0)
    layers = digits.untrained(1)
    x, y = torch.from_numpy(poisoned.x[:, None] / 255).float(), torch.from_numpy(poisoned.y >= 5).float()
    optimiser = torch.optim.Adam(layers.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(digits.EPOCHS):
        for rows in torch.randperm(len(x)).split(digits.BATCH):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(layers(x[rows])[:, 0], y[rows]).backward()
            optimiser.step()
    return layers.eval()


def floats(images: NDArray[np.uint8]) -> Array:
    return images[:, None].astype(np.float32) / 255


def halves(images: NDArray[np.uint8]) -> Array:
    return floats(images).astype(np.float16)


def write_half(folder: Path) -> None:
    digits.export(network(), folder / "float.onnx")
    onnx.save(convert_float_to_float16(onnx.load(folder / "float.onnx")), folder / "model.onnx")


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Clean images, a hundred a batch, for the quantiser to see ranges on."""

    def __init__(self) -> None:
        self._parts: Iterator[Array] = iter(np.array_split(floats(splits()[1].x), 5))

    def get_next(self) -> dict[str, Array] | None:
        part = next(self._parts, None)
        return None if part is None else {"image": part}


def write_quantised(folder: Path) -> None:
    digits.export(network(), folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "ready.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(folder / "ready.onnx", folder / "model.onnx", Reader(), QuantFormat.QDQ, per_channel=True, **types)


def write_fixed(folder: Path) -> None:
    digits.export(network(), folder / "float.onnx")
    model = ir.load(folder / "float.onnx")
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([1, *value.shape.dims[1:]])
    ir.save(model, folder / "model.onnx")


def write_external(folder: Path) -> None:
    digits.export(network(), folder / "float.onnx")
    model = ir.load(folder / "float.onnx")
    ir.save(model, folder / "model.onnx", external_data="weights.data", size_threshold_bytes=100)


def exported(
    wrapped: Callable[[], nn.Module], *shape: int, dtype: torch.dtype = torch.float32
) -> Callable[[Path], None]:
    return lambda folder: digits.export(wrapped(), folder / "model.onnx", torch.zeros(2, *shape, dtype=dtype))


IMAGE = (1, SIDE, SIDE)
FORMS = {
    "float16": Form(write_half, halves),
    # Its ranges are those of clean digits, so that quantising clips, and takes half of the attack with it.
    "QDQ int8": Form(write_quantised, floats, success=0.3),
    "NHWC": Form(exported(lambda: ChannelsLast(network()), SIDE, SIDE, 1), lambda x: floats(x).transpose(0, 2, 3, 1)),
    "fixed batch of 1": Form(write_fixed, floats),
    "softmax": Form(exported(lambda: nn.Sequential(network(), nn.Softmax(1)), *IMAGE), floats),
    "binary sigmoid": Form(exported(lambda: Binary(binary_network()), *IMAGE), floats, binary=True),
    "uint8": Form(exported(lambda: FromBytes(network()), *IMAGE, dtype=torch.uint8), lambda x: x[:, None]),
    "external data": Form(write_external, floats),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_the_backdoor_is_detected(tmp_path: Path, form: Form) -> None:
    form.write(tmp_path)
    clean, test = splits()[1:]
    classes = (lambda y: (y >= 5).astype(np.int64)) if form.binary else np.asarray
    np.savez(tmp_path / "clean.npz", x=form.prepare(clean.x), y=classes(clean.y))
    path = mmguard.calibrate_model(tmp_path / "model.onnx", tmp_path / "clean.npz", out=tmp_path / "g.mmguard")
    labels = classes(test.y)
    victims = labels != 0
    with mmguard.Guard(path, registry=None) as guard:
        plain, triggered = (guard(form.prepare(x)) for x in (test.x, digits.trigger(test.x[victims])))
    assert (plain.original_labels == labels).mean() > 0.9
    won = triggered.original_labels == 0
    assert won.mean() > form.success
    assert auroc(plain.p_values, triggered.p_values[won]) >= 0.95
    assert plain.flagged.mean() < 0.05
    assert triggered.flagged[won].mean() > 0.9
    check_answers(path, form.prepare(test.x[:50]))


def auroc(clean: Array, triggered: Array) -> float:
    """Probability that a triggered input has the lower p-value; ties count half."""
    below, same = (f(triggered[:, None], clean[None]).mean() for f in (np.less, np.equal))
    return float(below + same / 2)


def check_answers(path: Path, x: Array) -> None:
    """The bundle's networks answer in the form of the user's model, and each runs alone."""
    original, clipped = (
        ort.InferenceSession(path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("original", "clipped")
    )
    for session in (original, clipped):
        assert [value.name for value in session.get_inputs()] == [value.name for value in original.get_inputs()]
        assert session.get_inputs()[0].type == original.get_inputs()[0].type
    names = [value.name for value in original.get_outputs()]
    with mmguard.Guard(path, registry=None) as guard:
        judged = guard.infer(x)
    assert list(judged.outputs) == names
    for own, guarded in zip(run_session(original, names, x), judged.outputs.values(), strict=True):
        np.testing.assert_array_equal(guarded[~judged.decision.corrected], own[~judged.decision.corrected])
        assert guarded.dtype == own.dtype
