"""Read an ONNX file as a classifier, or raise an error that explains why it is not one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mmguard.bundle.manifest import ACTIVATIONS, OutputSpec
from mmguard.errors import NotClassifierError
from mmguard.exporter.find_logits import LogitsSource, find_logits
from mmguard.exporter.load import check_runtime, external_tensors, load
from mmguard.exporter.onnx_files import read
from mmguard.runtime.dtypes import INPUT_DTYPES

LOGITS = "mmguard_logits"
"""Name of the logits, float32 (N, K), in the runtime graphs of a model that does not output its logits."""
OWN_NAMES = frozenset({LOGITS, ACTIVATIONS, "mmguard_cast_out", "mmguard_columns", "mmguard_matmul_out"})
EVIDENCE = "mmguard_evidence_"
"""Names, and the beginning of names, of the values that mmguard adds to runtime graphs."""
INPUTS = {ir.DataType.from_numpy(np.dtype(name)): name for name in INPUT_DTYPES}
"""The supported input dtypes: a map from the ONNX dtype to NumPy's name for the same dtype."""


@dataclass(frozen=True)
class Classifier:
    """An ONNX model with one numeric input, whose outputs include the logits or are derived from them.

    Attributes:
        path: the user's file.
        model: the model in its canonical form, into which bounds are inserted. External weights are memory-mapped
            when they are first read.
        input_name: ONNX name of the input.
        input_dtype: NumPy's name for the input's dtype.
        input_shape: shape of a batch of inputs, with None for each dynamic axis.
        logits_source: where the logits are in the graph.
        output: the names of the outputs of the user's model, and the name of the logits in the runtime graphs.
        complaint: the error message of ONNX's checker if the checker rejects the file but ONNX Runtime can run it; None
            if the checker accepts the file.
    """

    path: Path
    model: ir.Model
    input_name: str
    input_dtype: str
    input_shape: tuple[int | None, ...]
    logits_source: LogitsSource
    output: OutputSpec
    complaint: str | None = None

    @cached_property
    def external_files(self) -> tuple[Path, ...]:
        """The paths of the files with external weights, relative to the model's folder and sorted."""
        return tuple(sorted({Path(tensor.location) for tensor in external_tensors(read(self.path))}))


def read_classifier(path: Path, logits: str | None = None) -> Classifier:
    """Load an ONNX file and check that it is a classifier.

    Args:
        path: ONNX file.
        logits: ONNX name of the logits; None to search for them.

    Returns:
        The classifier.

    Raises:
        NotOnnxError: the file is missing, is not ONNX, is rejected by ONNX Runtime, or has external weights that a
            bundle cannot contain.
        ModelError: the model, or a value that it computes, is too large.
        NotClassifierError: the model does not have exactly one numeric input, or has no logits (N, K) from which its
            outputs are derived.
        UnsupportedOperatorError: the model has sparse weights or control flow, or cannot be converted to an opset whose
            Min operator can clip its activations.
        OptionError: `logits` is not the name of a value that could be the logits.
    """
    loaded = load(path)
    model = loaded.model
    value, shape = _single_input(path, model.graph)
    if loaded.complaint is not None:
        check_runtime(path, loaded.complaint)
    try:
        source = find_logits(model, logits)
    except NotClassifierError as error:
        raise NotClassifierError(f"{path}: {error}") from error
    names = tuple(str(output.name) for output in model.graph.outputs)
    if len(set(names)) < len(names):
        raise NotClassifierError(
            f"{path}: two outputs of the model have the same name ({', '.join(names)}), but a guard identifies outputs "
            "by name; export the model with a different name for each output"
        )
    direct = source.value in names and source.dtype is ir.DataType.FLOAT and not source.one_column
    name = source.value if direct else LOGITS
    every = {*model.graph.initializers, *(str(each.name) for node in model.graph for each in node.outputs)}
    own = (every & OWN_NAMES - ({name} if direct else set())) | {each for each in every if each.startswith(EVIDENCE)}
    if taken := sorted(own):
        raise NotClassifierError(
            f"{path}: a value of the model is named {taken[0]!r}, but mmguard reserves this name; rename the value"
        )
    derived = tuple(each for each in source.derived if each != name)
    output = OutputSpec(names, name, derived, source.head)
    assert value.dtype is not None, "_single_input has already checked the dtype"
    return Classifier(path, model, str(value.name), INPUTS[value.dtype], shape, source, output, loaded.complaint)


def _single_input(path: Path, graph: ir.Graph) -> tuple[ir.Value, tuple[int | None, ...]]:
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) != 1:
        names = ", ".join(str(value.name) for value in inputs) or "none"
        raise NotClassifierError(f"{path} has {len(inputs)} inputs ({names}); provide a model with exactly one input")
    (value,) = inputs
    if value.dtype not in INPUTS:
        raise NotClassifierError(
            f"{path}: input {value.name!r} has dtype {value.dtype}; provide a model whose input dtype is one of "
            f"{', '.join(INPUTS.values())}, because the margin search changes inputs in small steps"
        )
    shape = _static_shape(value)
    if shape is None or len(shape) < 2:
        raise NotClassifierError(
            f"{path}: expected input {value.name!r} to have a declared shape (N, ...), got {value.shape}; export the "
            "model with a declared input shape whose first axis is the batch axis"
        )
    if 0 in shape:
        raise NotClassifierError(
            f"{path}: input {value.name!r} is declared with shape {value.shape}, but no axis may have length 0; "
            "export the model with a dynamic axis (a name, or -1) instead of the 0"
        )
    return value, shape


def _static_shape(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)
