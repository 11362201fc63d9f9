"""Read ONNX files as onnx-ir graphs, and write them back.

scikit-learn's converter outputs probabilities as maps, but onnx-ir has no type for maps. A graph that this module reads
therefore has no type for an output that is a map or a sequence of maps; when the graph is written, the type is restored
from the original file.
"""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data
from onnx_ir.serde import SerdeError

from mmguard.errors import NotOnnxError

MAX_INSIDE = 2**30
"""Largest total size, in bytes, of weights that are stored in the ONNX file itself, which must be smaller than 2 GB."""


def read(path: Path) -> ir.Model:
    """Read an ONNX file. As in ONNX Runtime, nodes may be in any order, and a negative length marks a dynamic axis.

    External weights are memory-mapped when they are first read.

    Args:
        path: ONNX file.

    Returns:
        The model, with its nodes in topological order.
    """
    if maps := _maps(path):
        proto = onnx.load(path, load_external_data=False)
        for output in proto.graph.output:
            if output.name in maps:
                output.ClearField("type")
        model = ir.from_proto(proto)
        external_data.set_base_dir(model.graph, path.parent)
    else:
        model = ir.load(path)
    if not _in_order(model.graph):
        model.graph.sort()
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None and any(isinstance(size, int) and size < 0 for size in value.shape):
            value.shape = ir.Shape([None if isinstance(size, int) and size < 0 else size for size in value.shape])
    return model


def _in_order(graph: ir.Graph) -> bool:
    """Return whether each node comes after all nodes whose outputs it reads."""
    done: set[ir.Node] = set()
    for node in graph:
        producers = {value.producer() for value in node.inputs if value is not None} - {None}
        if not producers <= done:
            return False
        done.add(node)
    return True


def write(model: ir.Model, path: Path, source: Path) -> None:
    """Write a model. External weights keep their locations, relative to the new file.

    Args:
        model: the model.
        path: ONNX file to write.
        source: the file that the model was read from.

    Raises:
        NotOnnxError: the model contains something that ONNX cannot store, such as a name that is not UTF-8.
    """
    try:
        ir.save(model, path)
    except SerdeError as error:
        raise NotOnnxError(f"{source} cannot be written back as ONNX: {innermost(error)}") from error
    _restore_maps(path, source)


def innermost(error: BaseException) -> BaseException:
    """Return the innermost cause of an error, or the error itself if it has no cause.

    Args:
        error: any exception.

    Example:
        >>> error = ValueError("outer")
        >>> error.__cause__ = KeyError("inner")
        >>> innermost(error)
        KeyError('inner')
    """
    return innermost(error.__cause__) if error.__cause__ is not None else error


def write_alone(model: ir.Model, path: Path, source: Path) -> None:
    """Write a model with its weights, so that the new file does not need the external weights of the source file.

    The weights are stored in the ONNX file or, if they are too large, in a new file next to it.

    Args:
        model: the model.
        path: ONNX file to write.
        source: the file that the model was read from.
    """
    weights = (value.const_value for value in model.graph.initializers.values())
    if sum(weight.nbytes for weight in weights if weight is not None) > MAX_INSIDE:
        ir.save(model, path, external_data=f"{path.stem}.data")
    else:
        external_data.load_to_model(model)
        ir.save(model, path)
    _restore_maps(path, source)


def _restore_maps(path: Path, source: Path) -> None:
    if not (maps := _maps(source)):
        return
    proto = onnx.load(path, load_external_data=False)
    for output in proto.graph.output:
        if output.name in maps:
            output.type.CopyFrom(maps[output.name])
    path.write_bytes(proto.SerializeToString())


def _maps(path: Path) -> dict[str, onnx.TypeProto]:
    """Return the types of the outputs that are maps or sequences of maps, by name."""
    outputs = onnx.load(path, load_external_data=False).graph.output
    return {output.name: output.type for output in outputs if _is_map(output.type)}


def _is_map(kind: onnx.TypeProto) -> bool:
    inner = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind
    return bool(inner.HasField("map_type"))
