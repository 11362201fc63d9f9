"""ONNX files to graphs and back. onnx-ir knows no maps, which scikit-learn's converter makes of probabilities.

An output that is a map, or a sequence of maps, has no type while it is a graph. Its type is put back when a file is
written, from the file that the graph came from.
"""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data

MAX_INSIDE = 2**30
"""Bytes of weights that a file holds in itself: an ONNX file cannot have 2 GB."""


def read(path: Path) -> ir.Model:
    """The graph of a file; weights in other files are mapped when they are read."""
    if not (maps := _maps(path)):
        return ir.load(path)
    proto = onnx.load(path, load_external_data=False)
    for output in proto.graph.output:
        if output.name in maps:
            output.ClearField("type")
    model = ir.from_proto(proto)
    external_data.set_base_dir(model.graph, path.parent)
    return model


def write(model: ir.Model, path: Path, source: Path) -> None:
    """Write a graph that was read from `source`. External weights keep their locations, relative to the new file."""
    ir.save(model, path)
    _restore_maps(path, source)


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
