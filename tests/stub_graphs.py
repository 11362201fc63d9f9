"""Linear networks of any names, widths, ranks and dtypes, to stand where a bundle keeps its runtime_graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from mmguard.bundle.file_names import MANIFEST, PROVENANCE
from mmguard.bundle.manifest import Manifest
from mmguard.bundle.write import write

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


@dataclass(frozen=True)
class StubGraph:
    """Means over images (N, 3, 8, 8), repeated to a given width, as every one of its outputs.

    Attributes:
        inputs: names; the first is used. shape, dtype: of the input.
        outputs: names. width: K; None repeats the batch's rows instead, (N, N). axes: of the outputs. out: their dtype.
        declared: whether the outputs' shape is.
    """

    inputs: tuple[str, ...] = ("image",)
    shape: tuple[int | str, ...] = ("N", 3, 8, 8)
    dtype: str = "float32"
    outputs: tuple[str, ...] = ("logits",)
    width: int | None = 3
    axes: int = 2
    out: str = "float32"
    declared: bool = True

    def model(self) -> onnx.ModelProto:
        """As ONNX."""
        nodes = [
            helper.make_node("Cast", [self.inputs[0]], ["number"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["number"], ["mean"], axes=list(range(1, len(self.shape))), keepdims=0),
            helper.make_node("Shape", ["mean"], ["n"]),
            helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
            helper.make_node("Expand", ["column", "wide"], ["rows"]),
        ]
        width = [1, self.width or 1]
        if self.width is None:
            nodes[4:] = [
                helper.make_node("Concat", ["n", "n"], ["wide"], axis=0),
                helper.make_node("Expand", ["column", "wide"], ["rows"]),
            ]
        shaped = {1: [-1], 2: [0, -1], 3: [0, -1, 1]}[self.axes]
        nodes.append(helper.make_node("Reshape", ["rows", "shaped"], ["reshaped"]))
        nodes += [helper.make_node("Cast", ["reshaped"], [name], to=TYPES[self.out]) for name in self.outputs]
        shape: list[int | str] | None = ["N", self.width or "K", 1][: self.axes] if self.declared else None
        constants = {"last": [1], "shaped": shaped} | ({} if self.width is None else {"wide": width})
        graph = helper.make_graph(
            nodes,
            "plan",
            [helper.make_tensor_value_info(name, TYPES[self.dtype], self.shape) for name in self.inputs],
            [helper.make_tensor_value_info(name, TYPES[self.out], shape) for name in self.outputs],
            [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def bytes(self) -> bytes:
        """As an ONNX file."""
        content: bytes = self.model().SerializeToString()
        return content


def put(bundle: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a bundle, and have its manifest list whatever lies in the folder."""
    manifest = Manifest.from_json((bundle / MANIFEST).read_bytes())
    for name, content in files.items():
        (bundle / name).write_bytes(content)
    for name in (MANIFEST, PROVENANCE):
        (bundle / name).unlink(missing_ok=True)
    write(bundle, replace(manifest, files={}), {})


def external(model: onnx.ModelProto, bundle: Path, names: Sequence[str], location: str) -> bytes:
    """The model's bytes with some of its weights in another file of the bundle."""
    weights = b""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            onnx.external_data_helper.set_external_data(tensor, location, len(weights), len(tensor.raw_data))
            weights += tensor.raw_data
            tensor.ClearField("raw_data")
    (bundle / location).write_bytes(weights)
    content: bytes = model.SerializeToString()
    return content
