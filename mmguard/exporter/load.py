"""Read an ONNX file, check it, and bring it to the form that mmguard works on."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data
from onnx_ir.passes.common import InlinePass

from mmguard.errors import MmguardError, NotOnnxError, UnsupportedOperatorError
from mmguard.exporter.onnx_files import read
from mmguard.exporter.sizes import require_sizes
from mmguard.exporter.stored import parse
from mmguard.exporter.values import mend_shapes
from mmguard.runtime.session import new_session

logger = logging.getLogger(__name__)

MIN_OPSET = 8
"""Below opset 8 Min does not broadcast a bound over a batch."""
MIN_OPSET_BFLOAT16 = 13
"""Below opset 13 Min does not take bfloat16."""


@dataclass(frozen=True)
class Loaded:
    """A file that can be worked on.

    Attributes:
        model: its canonical form. complaint: of ONNX's checker about the file; None where it has none.
    """

    model: ir.Model
    complaint: str | None


def load(path: Path) -> Loaded:
    """Load an ONNX file, of which sizes are checked before anything is computed.

    Raises:
        NotOnnxError: no such file, not ONNX, or external weights that a bundle cannot hold.
        UnsupportedOperatorError: sparse weights, and what `canonical` refuses.
        ModelError: it is too large, or makes values that are.
    """
    parse(path)
    complaint = _complaint(path)
    try:
        model = canonical(path)
        external = {str(tensor.location) for tensor in external_tensors(model)}
        require_sizes(model, path, sum(file.stat().st_size for file in (path, *map(path.parent.joinpath, external))))
        complaint = complaint or _complaint(path, full=True)
        if complaint is not None:
            mend_shapes(model)
    except MmguardError:
        raise
    except Exception as error:  # the libraries that read a file raise what they like on one that is malformed
        said = complaint or " ".join(map(str, _causes(error)))
        raise NotOnnxError(f"{path} is not a valid ONNX model: {said}") from error
    return Loaded(model, complaint)


def canonical(path: Path, mend: bool = False) -> ir.Model:
    """The model of a file that `load` passes, with functions inlined and of an opset whose Min can clip it.

    Args:
        path: the file. mend: put right the shapes that it declares, where there is a complaint.

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
            "anew without it: conditions decided, loops unrolled"
        )
    if mend:
        mend_shapes(model)
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


def _complaint(path: Path, full: bool = False) -> str | None:
    """What ONNX's checker says against a file; with `full` also of shapes that do not fit together."""
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except Exception as error:  # its checks, written in C++, raise what they like
        return str(error).strip()
    return None


def require_runtime(path: Path, complaint: str) -> None:
    """Where ONNX's checker has a complaint, ONNX Runtime decides, which is less strict.

    Raises:
        NotOnnxError: ONNX Runtime does not load the file either.
    """
    try:
        new_session(path)  # where constants are folded: after their sizes are checked
    except Exception as error:  # ONNX Runtime's errors share no base
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: ONNX Runtime says: {error}; ONNX's checker says: {complaint}"
        ) from error
    logger.warning("warning: ONNX Runtime runs %s, but ONNX's checker says of it: %s", path, complaint)


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
    except (RuntimeError, ValueError) as error:  # what onnx's converter, written in C++, raises
        raise UnsupportedOperatorError(
            f"{path} needs at least opset {opset}, and ONNX cannot convert it; export it again: {error}"
        ) from error
