"""Load an ONNX file, check it, and convert it to the canonical form that mmguard works on."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data
from onnx_ir.passes.common import InlinePass

from mmguard.errors import ModelError, NotOnnxError, UnsupportedOperatorError
from mmguard.exporter.file_checks import check_file
from mmguard.exporter.memory_limits import check_memory
from mmguard.exporter.onnx_files import read
from mmguard.exporter.shape_inference import correct_shapes
from mmguard.runtime.session import new_session

logger = logging.getLogger(__name__)

MIN_OPSET = 8
"""Lowest opset in which Min can broadcast a bound over a batch."""
MIN_OPSET_BFLOAT16 = 13
"""Lowest opset in which Min accepts bfloat16."""


@dataclass(frozen=True)
class Loaded:
    """A model that passed the checks.

    Attributes:
        model: the model in its canonical form.
        complaint: the error message of ONNX's checker; None if the checker accepts the file.
    """

    model: ir.Model
    complaint: str | None


def load(path: Path) -> Loaded:
    """Load an ONNX file. Sizes are checked before anything is computed.

    Args:
        path: ONNX file.

    Returns:
        The model in its canonical form.

    Raises:
        NotOnnxError: the file is missing, is not ONNX, or has external weights that a bundle cannot contain.
        UnsupportedOperatorError: the model has sparse weights or control flow, or cannot be converted to an opset whose
            Min operator can clip its activations.
        ModelError: the model, or a value that it computes, is too large.
    """
    check_file(path)
    complaint = _complaint(path)
    try:
        model = canonical(path)
        external = {str(tensor.location) for tensor in external_tensors(model)}
        check_memory(model, path, sum(file.stat().st_size for file in (path, *map(path.parent.joinpath, external))))
        complaint = complaint or _complaint(path, full=True)
        if complaint is not None:
            correct_shapes(model)
    except ModelError:
        raise
    except Exception as error:  # if a file is malformed, the libraries that read it can raise any exception
        reason = complaint or " ".join(map(str, _causes(error)))
        raise NotOnnxError(f"{path} is not a valid ONNX model: {reason}") from error
    return Loaded(model, complaint)


def canonical(path: Path, correct: bool = False) -> ir.Model:
    """Read a file that `load` accepts, inline its functions, and convert it to an opset with a suitable Min operator.

    Args:
        path: ONNX file.
        correct: whether to correct the shapes that the file declares. This is necessary if ONNX's checker rejects the
            file.

    Returns:
        The model.

    Raises:
        UnsupportedOperatorError: the model cannot be converted to such an opset, or has control flow.
    """
    model = read(path)
    opset, needed = model.opset_imports.get("", 0), _needed_opset(model)
    if 0 < opset < needed:
        logger.info(
            "the clipped network will use opset %d, because the Min operator of opset %d cannot clip this model",
            needed,
            opset,
        )
        model = _converted(path, needed)
    if model.functions:
        model = InlinePass()(model).model
    if branching := sorted({node.op_type for node in model.graph if _has_graphs(node)}):
        raise UnsupportedOperatorError(
            f"{path} has control flow ({', '.join(branching)}), which mmguard cannot clip; export the model "
            "without branches, and with its loops unrolled"
        )
    if correct:
        correct_shapes(model)
    return model


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Find the weights that are stored outside the model's file.

    Args:
        model: a model that was read from a file.

    Yields:
        The tensors, in the graph's order. Each tensor is memory-mapped when it is first read.
    """
    weights = [value.const_value for value in model.graph.initializers.values()]
    nodes = (node for graph in (model.graph, *model.functions.values()) for node in graph)
    weights += [
        each.value for node in nodes for each in node.attributes.values() if each.type is ir.AttributeType.TENSOR
    ]
    for weight in weights:
        if isinstance(weight, ir.ExternalTensor):
            yield weight


def _complaint(path: Path, full: bool = False) -> str | None:
    """Return the error message of ONNX's checker, or None. If `full` is true, the checker also infers shapes."""
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except Exception as error:  # the checker is written in C++ and can raise any exception
        return str(error).strip()
    return None


def check_runtime(path: Path, complaint: str) -> None:
    """Check that ONNX Runtime loads a file that ONNX's checker rejects. ONNX Runtime is less strict.

    Args:
        path: ONNX file.
        complaint: the error message of ONNX's checker.

    Raises:
        NotOnnxError: ONNX Runtime also rejects the file.
    """
    try:
        new_session(path)  # folds constants, so it must come after the check of their sizes
    except Exception as error:  # not only ORT_ERRORS, but also others such as UnicodeDecodeError
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: ONNX Runtime reports: {error}; ONNX's checker reports: {complaint}"
        ) from error
    logger.warning("warning: ONNX Runtime accepts %s, but ONNX's checker rejects it: %s", path, complaint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


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
        model = read(path)
        external_data.load_to_model(model)
        return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), opset))
    except (RuntimeError, ValueError) as error:  # raised by ONNX's converter, which is written in C++
        raise UnsupportedOperatorError(
            f"{path} must use opset {opset} or later, but ONNX cannot convert the model to this opset ({error}); "
            f"export the model with opset {opset} or later"
        ) from error
