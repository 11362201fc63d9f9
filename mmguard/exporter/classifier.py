"""Read an ONNX file as a classifier, or say why it is not one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from mmguard.bundle import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT
from mmguard.errors import NotClassifierError, NotOnnxError, UnsupportedOperatorError
from mmguard.manifest import OutputSpec
from mmguard.types import Tail

MIN_OPSET = 8
"""Below opset 8 Min does not broadcast a bound over a batch."""

RESERVED = frozenset({"original.onnx", "clipped.onnx", "plans", MANIFEST, PROVENANCE, BOUNDS, PROBES, REPORT})
"""What a bundle holds beside the external weights, which keep their names in it."""

TAILS = {"Softmax": Tail.SOFTMAX, "LogSoftmax": Tail.LOG_SOFTMAX}


@dataclass(frozen=True)
class Classifier:
    """An ONNX model with one float input and one output of scores.

    Attributes:
        path: the user's file.
        model: the graph; weights in external files are mapped when they are read.
        input_name, input_shape: the one input; None for each dynamic axis.
        output: the user's output, and where the logits are.
    """

    path: Path
    model: ir.Model
    input_name: str
    input_shape: tuple[int | None, ...]
    output: OutputSpec

    def external_files(self) -> list[Path]:
        """Locations, relative to the model's folder, of the files that hold its external weights."""
        return sorted({Path(tensor.location) for tensor in _external_tensors(self.model.graph)})


def read_classifier(path: Path) -> Classifier:
    """Load and check an ONNX file.

    Raises:
        NotOnnxError: no such file, not ONNX, ONNX's checker refuses it, or external weights that a bundle cannot hold.
        NotClassifierError: not one float32 input with a dynamic batch and one (N, K) output of scores.
        UnsupportedOperatorError: an opset below 8, or local functions.
    """
    model = _load(path)
    _check_external(path, model.graph)
    if model.functions:
        names = ", ".join(sorted(identifier[1] for identifier in model.functions))
        raise UnsupportedOperatorError(f"{path} defines functions ({names}); inline them first: onnx.inliner")
    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        raise UnsupportedOperatorError(
            f"{path} is of opset {opset}, at least {MIN_OPSET} is needed; convert it: onnx.version_converter"
        )
    name, shape = _single_input(path, model.graph)
    return Classifier(path, model, name, shape, _single_output(path, model.graph))


def _load(path: Path) -> ir.Model:
    if not path.is_file():
        raise NotOnnxError(f"{path}: no such file; the first argument of calibrate is an ONNX file")
    try:
        onnx.checker.check_model(str(path))
        return ir.load(path)
    except (onnx.checker.ValidationError, DecodeError, ValueError, OSError, RuntimeError) as error:
        raise NotOnnxError(f"{path} is not a valid ONNX model: {error}") from error


def _check_external(path: Path, graph: ir.Graph) -> None:
    for tensor in _external_tensors(graph):
        location = str(tensor.location)
        if location.split("/")[0] in RESERVED:
            raise NotOnnxError(
                f"{path} keeps weights in {location!r}, where a bundle keeps a file of its own; "
                "save the model again with another location, such as weights.data"
            )
        size, end = Path(tensor.path).stat().st_size, (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if size < end:
            raise NotOnnxError(
                f"{path} keeps weights up to byte {end} of {location!r}, which has {size}; copy that file again"
            )


def _single_input(path: Path, graph: ir.Graph) -> tuple[str, tuple[int | None, ...]]:
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) != 1:
        names = ", ".join(str(value.name) for value in inputs) or "none"
        raise NotClassifierError(f"{path} has {len(inputs)} inputs ({names}); a model of exactly one input is needed")
    (value,) = inputs
    if value.dtype is not ir.DataType.FLOAT:
        raise NotClassifierError(
            f"{path}: input {value.name!r} is {value.dtype}, float32 is needed; export the model in float32"
        )
    shape = _static_shape(value)
    if shape is None or len(shape) < 2:
        raise NotClassifierError(f"{path}: input {value.name!r} needs a declared shape (N, ...), it has {value.shape}")
    if shape[0] is not None:
        raise NotClassifierError(
            f"{path}: input {value.name!r} has a fixed batch of {shape[0]}; export it with a dynamic batch axis "
            "(torch.onnx.export: dynamic_shapes, or dynamic_axes)"
        )
    return str(value.name), shape


def _single_output(path: Path, graph: ir.Graph) -> OutputSpec:
    if len(graph.outputs) != 1:
        names = ", ".join(str(value.name) for value in graph.outputs)
        raise NotClassifierError(f"{path} has {len(graph.outputs)} outputs ({names}); a model of exactly one is needed")
    value = graph.outputs[0]
    shape = _static_shape(value)
    if value.dtype is not ir.DataType.FLOAT or (shape is not None and len(shape) != 2):
        raise NotClassifierError(
            f"{path}: output {value.name!r} is {value.dtype} of shape {value.shape}; "
            "a classifier gives float32 scores of shape (N, K)"
        )
    if shape is not None and shape[1] == 1:
        raise NotClassifierError(f"{path}: output {value.name!r} has one column; at least two classes are needed")
    logits, tail = _before_tail(value)
    return OutputSpec(str(value.name), str(logits.name), tail)


def _before_tail(output: ir.Value) -> tuple[ir.Value, Tail]:
    """The logits: the output itself, or what goes into a softmax over the classes that ends the graph."""
    node = output.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type not in TAILS or node.inputs[0] is None:
        return output, Tail.NONE
    if node.attributes.get_int("axis", -1) not in (-1, 1):
        return output, Tail.NONE
    return node.inputs[0], TAILS[node.op_type]


def _static_shape(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _external_tensors(graph: ir.Graph) -> Iterator[ir.ExternalTensor]:
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            yield value.const_value
