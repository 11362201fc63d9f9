"""Check an ONNX file before anything is computed from it, because models may come from untrusted sources."""

import math
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT
from mmguard.bundle.manifest_checks import bundle_path
from mmguard.errors import ModelError, NotOnnxError, UnsupportedOperatorError

MAX_FILE = 2**31
"""Size limit of ONNX files in bytes: protobuf cannot read a file of this size or larger. Larger models keep their
weights in external files."""
MAX_NODES = 20_000
"""Largest number of nodes that a model may have after its functions are inlined. CoaT-tiny, one of the largest networks
surveyed, has 5,583."""
MAX_CALLS = 100
"""Largest allowed depth of nested function calls. ONNX's own checker has the same limit."""

RESERVED = frozenset({"original.onnx", "clipped.onnx", "runtime", MANIFEST, PROVENANCE, BOUNDS, PROBES, REPORT})
"""Names of a bundle's own files. A file of external weights keeps its name in a bundle, so it must not have any of
these names."""

Function = tuple[str, str, str]
"""A function's domain, name and overload."""


def check_file(path: Path) -> None:
    """Check that a file is valid ONNX, is within mmguard's limits, and has complete weights.

    External weights are not read: only the presence and the sizes of the files are checked.

    Args:
        path: ONNX file.

    Raises:
        NotOnnxError: the file is missing or not ONNX, or its weights are incomplete or cannot be stored in a bundle.
        ModelError: the model has more nodes than `MAX_NODES`.
        UnsupportedOperatorError: the model has sparse weights.
    """
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "no such file"
        raise NotOnnxError(f"{path}: {what}; provide an ONNX file")
    if (size := path.stat().st_size) >= MAX_FILE:
        raise NotOnnxError(
            f"{path} has {size} bytes, but an ONNX file must be smaller than 2 GB; save the weights in an external file"
        )
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise NotOnnxError(f"{path} is not a valid ONNX model: {error}") from error
    if not proto.HasField("graph"):
        raise NotOnnxError(f"{path} is not a valid ONNX model: it has no graph")
    if (count := _count(path, proto)) > MAX_NODES:
        raise ModelError(
            f"{path} has {count} nodes after its functions are inlined, but mmguard accepts at most {MAX_NODES}"
        )
    sparse = any(a.HasField("sparse_tensor") or a.sparse_tensors for node in _nodes(proto) for a in node.attribute)
    if sparse or proto.graph.sparse_initializer:
        raise UnsupportedOperatorError(
            f"{path} has sparse weights, which mmguard does not support; save the model with dense weights"
        )
    for tensor in _tensors(proto):
        _check_tensor(path, tensor)


def _count(path: Path, proto: onnx.ModelProto) -> int:
    """Return how many nodes the model would have with every function inlined, including the nodes of subgraphs."""
    functions = {_key(each.domain, each.name, each.overload): each.node for each in proto.functions}
    known: dict[Function, int] = {}

    def count(nodes: Iterable[onnx.NodeProto], calls: tuple[Function, ...]) -> int:
        total = 0
        for node in nodes:
            key = _key(node.domain, node.op_type, node.overload)
            if key in functions and key not in known:
                if key in calls or len(calls) >= MAX_CALLS:
                    raise NotOnnxError(
                        f"{path} is not a valid ONNX model: function {node.op_type!r} calls itself, or its "
                        f"function calls are nested more than {MAX_CALLS} levels deep; export the model again"
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
    """Yield all subgraphs of the nodes, including nested ones. Protobuf itself limits the depth of nesting."""
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
    """Return the size in bytes of an array with a given number of elements. Elements smaller than a byte are packed.

    Args:
        count: number of elements.
        kind: dtype of the elements.

    Example:
        >>> nbytes(3, ir.DataType.FLOAT), nbytes(3, ir.DataType.INT4)
        (12, 2)
    """
    return math.ceil(count * int(8 * kind.itemsize) / 8) if count < 2**48 else count


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Check that a weight has as many elements as its shape requires, before memory is allocated for them.

    Raises:
        NotOnnxError: the weight's shape or dtype is invalid, or the number of elements does not match the shape.
    """
    known = {kind.value for kind in ir.DataType} - {ir.DataType.UNDEFINED.value}
    if any(size < 0 for size in tensor.dims) or tensor.data_type not in known:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} has an invalid shape or element type "
            f"(shape {tuple(tensor.dims)}, element type {tensor.data_type}); export the model again"
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
        missing = count > 8 * sum(map(len, fields))  # each entry packs at most 4 elements of 2 bits
    if missing:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} does not have the {count} elements that "
            f"its shape {tuple(tensor.dims)} requires; copy or export the file again"
        )


def _check_external(path: Path, tensor: onnx.TensorProto, needed: int) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    remedy = "save the weights in a file with a different name, such as weights.data"
    try:
        bundle_path(location)
    except ValueError as error:
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, a path that bundles cannot contain; {remedy}"
        ) from error
    if location.split("/")[0].casefold() in RESERVED:
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, a name that bundles use for their own files; {remedy}"
        )
    size = _size(path, location)
    try:
        offset, length = (int(fields.get(key, default)) for key, default in (("offset", "0"), ("length", str(needed))))
    except ValueError as error:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} has an offset or a length that is not a number; "
            "export the model again"
        ) from error
    if offset < 0 or length < needed:
        raise NotOnnxError(
            f"{path} is not a valid ONNX model: weight {tensor.name!r} needs {needed} bytes, but the model "
            f"assigns it {length} bytes of {location!r}, starting at byte {offset}; export the model again"
        )
    if size < (end := offset + length):
        raise NotOnnxError(
            f"{path} keeps weights up to byte {end} of {location!r}, but that file has only {size} bytes; "
            "copy the file again"
        )


def _size(path: Path, location: str) -> int:
    """Return the size of a file of external weights, in bytes.

    Raises:
        NotOnnxError: the file does not exist, is not a regular file, or is a link.
    """
    file = path.parent / location
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, which cannot be found: {error}; put that file next to the model"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, which is not a regular file; put the file with the "
            "weights at that path"
        )
    if file.resolve() != path.parent.resolve() / location:
        raise NotOnnxError(
            f"{path} keeps weights in {location!r}, which is a link to {file.resolve()}, as is common in the "
            "caches of model hubs. ONNX does not follow links; copy the model and its weights into a folder with "
            "`cp -L`, and use the copied model"
        )
    return found.st_size
