"""ONNX files to graphs and back. onnx-ir knows no maps, which scikit-learn's converter makes of probabilities.

An output that is a map, or a sequence of maps, has no type while it is a graph. Its type is put back when a file is
written, from the file that the graph came from.
"""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data
from onnx_ir.serde import SerdeError

from mmguard.errors import NotOnnxError

MAX_INSIDE = 2**30
"""Bytes of weights that a file holds in itself: an ONNX file cannot have 2 GB."""


def read(path: Path) -> ir.Model:
    """The graph of a file, as ONNX Runtime takes it: in any order of nodes, a negative length of an axis for any.

    Weights in other files are mapped when they are read.
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
    """Whether each node comes after those that it reads from."""
    done: set[ir.Node] = set()
    for node in graph:
        makers = {value.producer() for value in node.inputs if value is not None} - {None}
        if not makers <= done:
            return False
        done.add(node)
    return True


def write(model: ir.Model, path: Path, source: Path) -> None:
    """Write a graph that was read from `source`. External weights keep their locations, relative to the new file.

    Raises:
        NotOnnxError: it holds what ONNX cannot, such as a name that is not UTF-8.
    """
    try:
        ir.save(model, path)
    except SerdeError as error:
        raise NotOnnxError(f"{source} cannot be written again as ONNX: {innermost(error)}") from error
    _restore_maps(path, source)


def innermost(error: BaseException) -> BaseException:
    """What caused an error in the end."""
    return innermost(error.__cause__) if error.__cause__ is not None else error


def write_alone(model: ir.Model, path: Path, source: Path) -> None:
    """Write a graph to a folder that is not its weights': it holds them itself, or has them beside it."""
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
    """Types of the outputs that are maps or sequences of maps, by name."""
    outputs = onnx.load(path, load_external_data=False).graph.output
    return {output.name: output.type for output in outputs if _is_map(output.type)}


def _is_map(kind: onnx.TypeProto) -> bool:
    inner = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind
    return bool(inner.HasField("map_type"))
