"""Check that the values of a graph fit into memory before anything computes them.

A few numbers in a file can make a runtime allocate any amount of memory. The runtime computes constants, and
allocates memory for them, when it opens the file. It allocates memory for other values when the model runs.

The check walks the graph once, assuming a batch of one input. It applies ONNX's shape inference to one node at a time,
and tracks the values of small constants.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mmguard.errors import ModelError
from mmguard.exporter.file_checks import nbytes

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

MAX_CONSTANTS, GROWTH = 2**26, 16
"""All computed constants together may take `MAX_CONSTANTS` bytes, or `GROWTH` times the size of the model's files,
whichever is more."""
MAX_VALUE = 2**31
"""Largest size, in bytes, of a value that is computed from one input."""
SMALL = 1024
"""Largest number of elements of a constant whose value is tracked, such as a shape, axes or repeat counts."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARITHMETIC = _names(
    "Abs Add And Cast Ceil Clip Concat Constant ConstantOfShape CumSum Div Equal Expand Flatten Floor Gather Greater "
    "Identity Less Max Min Mod Mul Neg NonZero Not Or Pow Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape Round "
    "ScatterND Size Slice Sqrt Squeeze Sub Sum Tile Transpose Unsqueeze Where"
)
"""Operators that models use to compute shapes. The values that other operators compute are not tracked."""
GROWING = _names(
    "AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape ConvTranspose DFT Expand EyeLike HammingWindow "
    "HannWindow MaxUnpool MelWeightMatrix OneHot Pad RandomNormal RandomUniform Range Resize STFT Tile Upsample"
)
"""Operators whose output can be larger than their inputs. How much larger depends on the values of the inputs."""
BROADCASTING = _names("Add Div Einsum Gemm MatMul Mul Pow Sub Where")
"""Operators whose output can have as many elements as the product of the element counts of their inputs."""


def check_memory(model: ir.Model, path: Path, stored: int) -> None:
    """Check that a graph does not need more memory than is reasonable for a classifier.

    Args:
        model: the model, with its functions inlined, without subgraphs, and with its nodes in topological order.
        path: the model's file, for use in error messages.
        stored: total size, in bytes, of the file and its external weights.

    Raises:
        ModelError: a value is too large, or the size of a constant cannot be determined without computing the constant.
    """
    walk, allowed = _Walk(model), max(MAX_CONSTANTS, GROWTH * stored)
    for name, kind in walk.types.items():
        if name not in walk.elements and (most := _bytes(kind) or 0) > MAX_VALUE:
            raise ModelError(f"{path}: input {name!r} needs {most} bytes with its declared shape; {_remedy(MAX_VALUE)}")
    total = 0
    for node in model.graph:
        constant, sizes = walk.step(node)
        for value, size in zip(node.outputs, sizes, strict=True):
            what = f"{path}: {node.op_type} computes {value.name!r}"
            if constant and size is None:
                raise ModelError(
                    f"{what} from constants, but the value's size cannot be determined in advance; compute the value "
                    "when you export the model, and store the result"
                )
            total += (size or 0) if constant else 0
            if total > allowed:
                raise ModelError(
                    f"{what} from constants, which brings the size of all computed constants to {total} bytes; "
                    f"{_remedy(allowed)}"
                )
            if not constant and (size or 0) > MAX_VALUE:
                raise ModelError(f"{what}, which takes {size} bytes for one input; {_remedy(MAX_VALUE)}")


def _remedy(most: int) -> str:
    return f"mmguard allows at most {most} bytes; export the model without such large tensors"


class _Walk:
    """Walks over the nodes of a graph and collects what is known about each value.

    Attributes:
        types: the dtype of each value, and its shape if known, by the value's name.
        values: the known constants of up to `SMALL` elements, by the constant's name.
        elements: the number of elements of each constant, by the constant's name.

    """

    def __init__(self, model: ir.Model) -> None:
        self._opsets = dict(model.opset_imports)
        self.types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, Array] = {}
        self.elements: dict[str, int] = {"": 0}
        for value in model.graph.inputs:
            if value.name not in model.graph.initializers and value.dtype is not None and value.shape is not None:
                sizes = [size if isinstance(size, int) else None for size in value.shape]
                sizes[:1] = [size or 1 for size in sizes[:1]]  # a batch of one
                self.types[str(value.name)] = _tensor_type(value.dtype.value, sizes)
        for name, value in model.graph.initializers.items():
            if value.const_value is not None:
                self._store(name, value.const_value)

    def _store(self, name: str, tensor: ir.TensorProtocol) -> None:
        shape = list(tensor.shape.numpy())
        self.types[name] = _tensor_type(tensor.dtype.value, shape)
        self.elements[name] = math.prod(shape)
        if self.elements[name] <= SMALL and tensor.dtype is not ir.DataType.STRING:
            self.values[name] = tensor.numpy()

    def step(self, node: ir.Node) -> tuple[bool, list[int | None]]:
        """Return whether a node's outputs are constants, and the size of each output in bytes (None if not known)."""
        names = [str(value.name) if value is not None and value.name else "" for value in node.inputs]
        outputs = [str(value.name) for value in node.outputs]
        tensor = node.attributes.get("value")
        if node.op_type == "Constant" and tensor is not None and isinstance(tensor.value, ir.TensorProtocol):
            self._store(outputs[0], tensor.value)
            return True, [tensor.value.nbytes]
        found = self._inferred(node, names)
        self.types |= found
        sizes: list[int | None] = [_bytes(found[name]) if name in found else None for name in outputs]
        if node.op_type in ("Shape", "Size") and self._measured(node, names[0], outputs[0]):
            return True, sizes
        if constant := all(name in self.elements for name in names):
            sizes = [self._elements(node, names, size) for size in sizes]
            for name, size in zip(outputs, sizes, strict=True):
                self.elements[name] = _count(self.types.get(name), size)
            self._evaluate(node, names, outputs)
        return constant, sizes

    def _inferred(self, node: ir.Node, names: Sequence[str]) -> Mapping[str, onnx.TypeProto]:
        types = {name: self.types[name] for name in names if name in self.types}
        if len(types) != len({name for name in names if name}):
            return {}
        domain = "" if node.domain == "ai.onnx" else node.domain
        data = {name: numpy_helper.from_array(self.values[name], name) for name in types if name in self.values}
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets.get(domain, 1), domain)
            imports = [helper.make_opsetid(*each) for each in self._opsets.items()]
            return onnx.shape_inference.infer_node_outputs(schema, _proto(node), types, data, opset_imports=imports)
        except Exception as error:  # an unknown operator or unsuitable inputs; the runtime reports both
            logger.debug("could not infer the output types of %s: %s", node.op_type, error)
            return {}

    def _elements(self, node: ir.Node, names: Sequence[str], size: int | None) -> int | None:
        """Return the size of a constant output in bytes, or an upper limit if its shape was not inferred.

        The upper limit assumes 8 bytes per element. The result is None if the operator can output any number of
        elements.
        """
        if size is not None or node.op_type in GROWING:
            return size
        counts = [self.elements[name] for name in names if name]
        return 8 * (math.prod(counts) if node.op_type in BROADCASTING else sum(counts))

    def _measured(self, node: ir.Node, taken: str, made: str) -> bool:
        """Return whether the output of a Shape or Size node is a constant; if so, store the constant."""
        shape = _shape(self.types.get(taken))
        if shape is None:
            return False
        part = shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(shape))]
        part = part if node.op_type == "Shape" else shape
        known = [size for size in part if size is not None]
        if len(known) < len(part):
            return False
        value = np.array(known if node.op_type == "Shape" else math.prod(known), np.int64)
        self.values[made], self.elements[made] = value, value.size
        return True

    def _evaluate(self, node: ir.Node, names: Sequence[str], outputs: Sequence[str]) -> None:
        """Compute and store a node's outputs if the node does shape arithmetic on known constants."""
        known = all(name in self.values for name in names if name)
        if not known or node.domain not in ("", "ai.onnx") or node.op_type not in ARITHMETIC:
            return
        if any(self.elements[name] > SMALL for name in outputs):
            return
        given = [helper.make_value_info(name, self.types[name]) for name in dict.fromkeys(names) if name]
        graph = helper.make_graph([_proto(node)], "one", given, [onnx.ValueInfoProto(name=name) for name in outputs])
        opsets = [helper.make_opsetid(*each) for each in self._opsets.items()]
        try:
            run = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run
            made = run(None, {name: self.values[name] for name in names if name})
        except Exception as error:  # the value stays unknown
            logger.debug("could not evaluate %s: %s", node.op_type, error)
            return
        for name, value in zip(outputs, map(np.asarray, made), strict=True):
            if value.dtype.kind in "biuf":
                self.values[name], self.elements[name] = value, value.size
                self.types[name] = _tensor_type(helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape))


def _proto(node: ir.Node) -> onnx.NodeProto:
    return ir.to_proto(node)


def _tensor_type(kind: int, shape: Sequence[int | None]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, list(shape))


def _shape(kind: onnx.TypeProto | None) -> tuple[int | None, ...] | None:
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.tensor_type.shape.dim)


def _bytes(kind: onnx.TypeProto) -> int | None:
    """Return the size of a value in bytes, or None if the length of an axis is not known."""
    shape = _shape(kind)
    if shape is None or any(size is None or size < 0 for size in shape):
        return None
    element = kind.tensor_type.elem_type
    count = math.prod(size or 0 for size in shape)
    return nbytes(count, ir.DataType(element)) if element and element != ir.DataType.STRING.value else 8 * count


def _count(kind: onnx.TypeProto | None, size: int | None) -> int:
    """Return the number of elements of a constant, or its size in bytes as an upper limit if its shape is not known."""
    shape = _shape(kind)
    if shape is None or None in shape:
        return size or 0
    return math.prod(each or 0 for each in shape)
