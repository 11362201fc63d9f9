"""Read an ONNX file, check it, and bring it to the form that mmguard works on."""

import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import InlinePass

from mmguard.bundle import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT
from mmguard.consistency import bundle_path
from mmguard.errors import NotOnnxError, UnsupportedOperatorError
from mmguard.exporter.files import read

logger = logging.getLogger(__name__)

MIN_OPSET = 8
"""Below opset 8 Min does not broadcast a bound over a batch."""
MIN_OPSET_BFLOAT16 = 13
"""Below opset 13 Min does not take bfloat16."""

RESERVED = frozenset({"original.onnx", "clipped.onnx", "plans", MANIFEST, PROVENANCE, BOUNDS, PROBES, REPORT})
"""What a bundle holds beside the external weights, which keep their names in it."""


def load(path: Path) -> ir.Model:
    """Load an ONNX file that ONNX's checker passes and whose external weights are there.

    Raises:
        NotOnnxError: no such file, not ONNX, refused by the checker, or external weights that a bundle cannot hold.
        UnsupportedOperatorError: sparse weights.
    """
    if not path.is_file():
        raise NotOnnxError(f"{path}: no such file; the first argument of calibrate is an ONNX file")
    try:
        onnx.checker.check_model(str(path))
        model = read(path)
    except (onnx.checker.ValidationError, DecodeError, ValueError, OSError, RuntimeError) as error:
        raise NotOnnxError(f"{path} is not a valid ONNX model: {error}") from error
    if onnx.load(path, load_external_data=False).graph.sparse_initializer:
        raise UnsupportedOperatorError(f"{path} has sparse weights, which cannot be guarded; save it with dense ones")
    for tensor in external_tensors(model):
        _check_external(path, tensor)
    return model


def canonical(path: Path) -> ir.Model:
    """The model of a file that `load` passes, with functions inlined and of an opset whose Min can clip it.

    Raises:
        UnsupportedOperatorError: it cannot be converted to that opset, or has control flow.
    """
    model = read(path)
    opset, needed = model.opset_imports.get("", 0), _needed_opset(model)
    if 0 < opset < needed:
        logger.info("the clipped network is written in opset %d: Min cannot clip this one in %d", needed, opset)
        model = _converted(path, needed)
    if model.functions:
        model = InlinePass()(model).model
    if branching := sorted({node.op_type for node in model.graph if _has_graphs(node)}):
        raise UnsupportedOperatorError(
            f"{path} has control flow ({', '.join(branching)}), whose branches cannot be clipped; export the model "
            "anew with the condition decided"
        )
    return model


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Weights that lie in other files; they are mapped when they are read."""
    weights = [value.const_value for value in model.graph.initializers.values()]
    nodes = (node for graph in (model.graph, *model.functions.values()) for node in graph)
    weights += [
        each.value for node in nodes for each in node.attributes.values() if each.type is ir.AttributeType.TENSOR
    ]
    for weight in weights:
        if isinstance(weight, ir.ExternalTensor):
            yield weight


def _has_graphs(node: ir.Node) -> bool:
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    )


def _needed_opset(model: ir.Model) -> int:
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    return MIN_OPSET_BFLOAT16 if any(value.dtype is ir.DataType.BFLOAT16 for value in values) else MIN_OPSET


def _converted(path: Path, opset: int) -> ir.Model:
    try:
        return ir.from_proto(onnx.version_converter.convert_version(onnx.load(path), opset))
    except (RuntimeError, ValueError) as error:  # what onnx's converter, written in C++, raises
        raise UnsupportedOperatorError(
            f"{path} needs at least opset {opset}, and ONNX cannot convert it; export it again: {error}"
        ) from error


def _check_external(path: Path, tensor: ir.ExternalTensor) -> None:
    location = str(tensor.location)
    remedy = "save the model again with another location, such as weights.data"
    try:
        bundle_path(location)
    except ValueError as error:
        raise NotOnnxError(f"{path} keeps weights in {location!r}, which no bundle can hold; {remedy}") from error
    if location.split("/")[0].casefold() in RESERVED:
        raise NotOnnxError(f"{path} keeps weights in {location!r}, where a bundle keeps a file of its own; {remedy}")
    size, end = Path(tensor.path).stat().st_size, (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if size < end:
        raise NotOnnxError(
            f"{path} keeps weights up to byte {end} of {location!r}, which has {size}; copy that file again"
        )
