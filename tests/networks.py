"""Small ONNX models written as text, and clean sets on disk."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from PIL import Image

from mmguard.types import IntArray
from tests.bundles import Array, Head, clean_inputs, run_model, tiny_network

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'

PLAIN = """
plain (float[n,4] x) => (float[n,3] logits)
<float[4,3] w = {1.0, -2.0, 3.0, 0.5, 0.0, -1.0, 2.0, 1.5, -0.5, 1.0, 1.0, -3.0}>
{
    hidden = Relu(x)
    logits = MatMul(hidden, w)
}
"""

RESIDUAL = """
residual (float[n,2,4,4] x) => (float[n,2] logits)
<float[2,2,1,1] w = {1.0, -2.0, 0.5, 1.0}, float[2,2] v = {1.0, -1.0, 0.5, 2.0}>
{
    [first] one = Conv(x, w)
    [bend] act = Relu(one)
    [second] two = Conv(act, w)
    [join] total = Add(two, act)
    [late] end = LeakyRelu<alpha = 0.1>(total)
    [pool] pooled = GlobalAveragePool(end)
    [flat] features = Flatten(pooled)
    [head] logits = Gemm(features, v)
}
"""


def write_text(folder: Path, body: str, header: str = HEADER) -> Path:
    """Write a model that is given as ONNX text."""
    path = folder / "model.onnx"
    ir.save(ir.from_onnx_text(header + body), path)
    return path


def residual_inputs(n: int) -> Array:
    """Inputs (n, 2, 4, 4) of `RESIDUAL`."""
    return np.random.default_rng(0).normal(size=(n, 2, 4, 4)).astype(np.float32)


def write_tiny(path: Path, head: Head = Head.NONE) -> Path:
    """Write the tiny network of `tests.bundles`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(tiny_network(head=head).model(), path)
    return path


def write_clean(path: Path, n: int = 120, labels: bool = False) -> Path:
    """Write clean inputs of the tiny network as `.npz`, labelled by its own decisions where asked for."""
    x = clean_inputs(n)
    if labels:
        np.savez(path, x=x, y=tiny_labels(x))
    else:
        np.savez(path, x=x)
    return path


def write_class_folders(folder: Path, names: tuple[str, ...], n: int = 120) -> Path:
    """Write clean inputs of the tiny network as PNG files, in one folder a class."""
    pixels = np.round(255 * clean_inputs(n)).astype(np.uint8)
    labels = tiny_labels((pixels / 255).astype(np.float32))
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / names[label] / f"{i:03}.png")
    return folder


def tiny_labels(x: Array) -> IntArray:
    """The tiny network's decisions (N,) int64."""
    labels: IntArray = run_model(tiny_network().model(), x).argmax(axis=1)
    return labels


def declare(model: onnx.ModelProto, value: str, *shape: int | str) -> onnx.ModelProto:
    """Make a value the model's only output, with a declared shape."""
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape))
    return model
