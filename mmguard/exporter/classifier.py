"""Read an ONNX file as a classifier, or say why it is not one."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import NotClassifierError
from mmguard.exporter.load import external_tensors, load, require_runtime
from mmguard.exporter.onnx_files import read
from mmguard.exporter.scores import Scores, find_scores

LOGITS = "mmguard_logits"
"""Name under which runtime_graphs give the logits where no output of the user's is them, float32 (N, K)."""
OWN_NAMES = frozenset({LOGITS, "mmguard_cast_out", "mmguard_columns", "mmguard_matmul_out"})
"""Names of the values that runtime_graphs add."""
INPUTS = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.UINT8: "uint8",
}
"""NumPy's names of the dtypes that a model may take."""


@dataclass(frozen=True)
class Classifier:
    """An ONNX model with one input of numbers and scores among its outputs or before them.

    Attributes:
        path: the user's file.
        model: the graph, in the form that bounds are put into; weights in external files are mapped when they are read.
        input_name, input_dtype: the one input. input_shape: None for each dynamic axis.
        scores: where the logits are in that graph.
        output: the user's outputs, and the logits as the runtime_graphs give them.
        complaint: of ONNX's checker, about a file that ONNX Runtime runs all the same; None where it has none.
    """

    path: Path
    model: ir.Model
    input_name: str
    input_dtype: str
    input_shape: tuple[int | None, ...]
    scores: Scores
    output: OutputSpec
    complaint: str | None = None

    def external_files(self) -> list[Path]:
        """Locations, relative to the model's folder, of the files that hold its external weights."""
        return sorted({Path(tensor.location) for tensor in external_tensors(read(self.path))})


def read_classifier(path: Path, logits: str | None = None) -> Classifier:
    """Load and check an ONNX file.

    Args:
        path: the file. logits: ONNX name of the logits, None to find them.

    Raises:
        NotOnnxError: no such file, not ONNX, ONNX Runtime refuses it, or external weights that a bundle cannot hold.
        ModelError: it is too large, or makes values that are.
        NotClassifierError: not one input of numbers, or no scores (N, K) that its outputs come from.
        UnsupportedOperatorError: an opset in which Min cannot clip it, and that ONNX cannot convert.
        OptionError: `logits` names no value that could be logits.
    """
    loaded = load(path)
    model = loaded.model
    value, shape = _single_input(path, model.graph)
    if loaded.complaint is not None:
        require_runtime(path, loaded.complaint)
    try:
        scores = find_scores(model, logits)
    except NotClassifierError as error:
        raise NotClassifierError(f"{path}: {error}") from error
    names = tuple(str(output.name) for output in model.graph.outputs)
    if len(set(names)) < len(names):
        raise NotClassifierError(
            f"{path}: two outputs of the model have one name ({', '.join(names)}), by which a guard tells them apart; "
            "export the model with each output once"
        )
    direct = scores.value in names and scores.dtype is ir.DataType.FLOAT and not scores.one_column
    name = scores.value if direct else LOGITS
    every = {*model.graph.initializers, *(str(each.name) for node in model.graph for each in node.outputs)}
    if taken := sorted(every & OWN_NAMES - ({name} if direct else set())):
        raise NotClassifierError(f"{path}: a value is called {taken[0]!r}, which a guard needs for its own; rename it")
    derived = tuple(each for each in scores.derived if each != name)
    output = OutputSpec(names, name, derived, scores.head)
    assert value.dtype is not None, "checked above"
    return Classifier(path, model, str(value.name), INPUTS[value.dtype], shape, scores, output, loaded.complaint)


def _single_input(path: Path, graph: ir.Graph) -> tuple[ir.Value, tuple[int | None, ...]]:
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) != 1:
        names = ", ".join(str(value.name) for value in inputs) or "none"
        raise NotClassifierError(f"{path} has {len(inputs)} inputs ({names}); a model of exactly one input is needed")
    (value,) = inputs
    if value.dtype not in INPUTS:
        raise NotClassifierError(
            f"{path}: input {value.name!r} is {value.dtype}; a model that takes one of {', '.join(INPUTS.values())} is "
            "needed, since the margin search moves inputs in small steps"
        )
    shape = _static_shape(value)
    if shape is None or len(shape) < 2:
        raise NotClassifierError(
            f"{path}: input {value.name!r} needs a declared shape (N, ...), it has {value.shape}; export the model "
            "with the shape of its input, the batch first"
        )
    if 0 in shape:
        raise NotClassifierError(
            f"{path}: input {value.name!r} is declared with shape {value.shape}, and no input has an axis of length 0; "
            "export the model with a dynamic axis there (a name, or -1)"
        )
    return value, shape


def _static_shape(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)
