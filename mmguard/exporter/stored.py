"""An ONNX file as it is stored, checked before anything is computed of it: models come from strangers."""

import math
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from mmguard.bundle.consistency import bundle_path
from mmguard.bundle.contents import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT
from mmguard.errors import ModelError, NotOnnxError, UnsupportedOperatorError

MAX_FILE = 2**31
"""Bytes: protobuf reads no more. Larger models keep their weights in other files."""
MAX_NODES = 20_000
"""Of a graph with its functions inlined. A CoaT-tiny, which is among the surveyed networks with the most, has 5,583."""
MAX_CALLS = 100
"""Depth of functions that call functions; ONNX's own checker allows no more."""

RESERVED = frozenset({"original.onnx", "clipped.onnx", "runtime", MANIFEST, PROVENANCE, BOUNDS, PROBES, REPORT})
"""What a bundle holds beside the external weights, which keep their names in it."""

Function = tuple[str, str, str]


def parse(path: Path) -> onnx.ModelProto:
    """Read a file, without its external weights, of which nothing is larger than it says or than mmguard takes.

    Raises:
        NotOnnxError: no such file, not ONNX, weights that are not there in full, or that a bundle cannot hold.
        ModelError: more nodes than `MAX_NODES`.
        UnsupportedOperatorError: sparse weights.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise NotOnnxError(f"{path}: {what}; an ONNX file is needed")
    if (size := path.stat().st_size) >= MAX_FILE:
        raise NotOnnxError(f"{path} has {size} bytes, and an ONNX file has less than 2 GB; keep its weights in another")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise NotOnnxError(f"{path} is not a valid ONNX model: {error}") from error
    if not proto.HasField("graph"):
        raise NotOnnxError(f"{path} is not a valid ONNX model: it holds no graph")
    if (count := _count(path, proto)) > MAX_NODES:
        raise ModelError(f"{path} has {count} nodes, its functions inlined; mmguard takes models of up to {MAX_NODES}")
    sparse = any(a.HasField("sparse_tensor") or a.sparse_tensors for node in _nodes(proto) for a in node.attribute)
    if sparse or proto.graph.sparse_initializer:
        raise UnsupportedOperatorError(f"{path} has sparse weights, which cannot be guarded; save it with dense ones")
    for tensor in _tensors(proto):
        _check_tensor(path, tensor)
    return proto


def _count(path: Path, proto: onnx.ModelProto) -> int:
    """Nodes once every function is inlined, those of subgraphs included; counted, not made."""
    functions = {_key(each.domain, each.name, each.overload): each.node for each in proto.functions}
    known: dict[Function, int] = {}

    def count(nodes: Iterable[onnx.NodeProto], calls: tuple[Function, ...]) -> int:
        total = 0
        for node in nodes:
            key = _key(node.domain, node.op_type, node.overload)
            if key in functions and key not in known:
                if key in calls or len(calls) >= MAX_CALLS:
                    raise NotOnnxError(
                        f"{path} is not a valid ONNX model: its function {node.op_type!r} calls itself, or functions "
                        f"call each other more than {MAX_CALLS} deep; export the model anew"
                    )
                known[key] = count(functions[key], (*calls, key))
            total += known.get(key, 1) + sum(count(graph.node, calls) for graph in _subgraphs(node))
        return total

    return count(proto.graph.node, ())


def _key(domain: str, name: str, overload: str) -> Function:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Graphs in the nodes, and in those; protobuf itself bounds how deep."""
    for node in nodes:
        for graph in _subgraphs(node):
            yield graph
            yield from _graphs(graph.node)


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        yield from nodes
        for graph in _graphs(nodes):
            yield from graph.node


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from proto.graph.initializer
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for graph in _graphs(nodes):
            yield from graph.initializer
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def nbytes(count: int, kind: ir.DataType) -> int:
    """Bytes of so many elements; those of less than a byte lie packed."""
    return math.ceil(count * int(8 * kind.itemsize) / 8) if count < 2**48 else count


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Weights are as many as their shape says, before anyone makes room for them."""
    known = {kind.value for kind in ir.DataType} - {ir.DataType.UNDEFINED.value}
    if any(size < 0 for size in tensor.dims) or tensor.data_type not in known:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} has shape {tuple(tensor.dims)} and element type "
            f"{tensor.data_type}; export it again"
        )
    count, kind = math.prod(tensor.dims), ir.DataType(tensor.data_type)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(path, tensor, 0 if kind is ir.DataType.STRING else nbytes(count, kind))
        return
    if kind is ir.DataType.STRING:
        missing = count != len(tensor.string_data)
    elif tensor.HasField("raw_data"):
        missing = nbytes(count, kind) != len(tensor.raw_data)
    else:
        fields = (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data, tensor.uint64_data)
        missing = count > 8 * sum(map(len, fields))  # at most 4 numbers of 2 bits, or 2 of 4, lie in one
    if missing:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} does not have the {count} numbers of "
            f"its shape {tuple(tensor.dims)}; copy or export the file again"
        )


def _check_external(path: Path, tensor: onnx.TensorProto, needed: int) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    remedy = "save the model again with another location, such as weights.data"
    try:
        bundle_path(location)
    except ValueError as error:
        raise NotOnnxError(f"{path} keeps weights in {location!r}, which no bundle can hold; {remedy}") from error
    if location.split("/")[0].casefold() in RESERVED:
        raise NotOnnxError(f"{path} keeps weights in {location!r}, where a bundle keeps a file of its own; {remedy}")
    size = _size(path, location)
    try:
        offset, length = (int(fields.get(key, default)) for key, default in (("offset", "0"), ("length", str(needed))))
    except ValueError as error:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} has an offset or a length that is not a number"
        ) from error
    if offset < 0 or length < needed:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} needs {needed} bytes of {location!r}, and it is "
            f"said to have {length} from byte {offset}"
        )
    if size < (end := offset + length):
        raise NotOnnxError(
            f"{path} keeps weights up to byte {end} of {location!r}, which has {size}; copy that file again"
        )


def _size(path: Path, location: str) -> int:
    """Bytes of a file of weights: one that is there, is a file, and lies where it seems to."""
    file = path.parent / location
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, which is not there: {error}; put it beside the model"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise NotOnnxError(f"{path} keeps weights in {location!r}, which is not a file; copy the file of weights there")
    if file.resolve() != path.parent.resolve() / location:
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, which is a link to {file.resolve()}, as in a hub's cache. ONNX "
            "takes no links there: copy the model and its weights, as `cp -L` does, into a folder, and give that copy"
        )
    return found.st_size
