"""Recognise models that do not choose one of several classes: multi-label models, regressors, detectors."""

from collections.abc import Collection, Iterable

import onnx_ir as ir

from mmguard.errors import NotClassifierError

SQUASHING = frozenset({"Equal", "Greater", "GreaterOrEqual", "HardSigmoid", "Less", "LessOrEqual", "Sigmoid"})
"""Operators that compute, separately for each class, whether the class is true or how likely the class is."""
BETWEEN = frozenset({"ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "LpNormalization", "Normalizer", "Softmax", "TopK"})
"""Operators that compare the scores of the classes, to choose a class or to make the scores sum to 1. Reductions also
compare scores."""
FORWARDING = frozenset({"Cast", "Flatten", "Identity", "Not", "Reshape", "Squeeze", "Unsqueeze", "Where"})
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def require_single_label(graph: ir.Graph, logits: ir.Value, reached: Collection[str]) -> None:
    """Check that the model does not decide about each class separately. A guard can correct only one label per input.

    Args:
        graph: the user's graph.
        logits: the value (N, K) that was found to be the logits.
        reached: names of the values that depend on the input only through the logits.

    Raises:
        NotClassifierError: the model is multi-label; the message names the output that shows this.
    """
    if logits.shape is not None and logits.shape[-1] == 1:
        return
    squashed, compared = set[ir.Value](), set[ir.Value]()
    for node in graph:
        inputs = [value for value in node.inputs if value is not None and value.name in reached]
        if not inputs or not all(value.name in reached for value in node.outputs):
            continue
        if node.op_type in BETWEEN or node.op_type.startswith("Reduce") or any(each in compared for each in inputs):
            compared |= set(node.outputs)
        elif node.op_type in SQUASHING or all(each in squashed for each in inputs):
            squashed |= set(node.outputs)  # but not x * Sigmoid(x), which is an activation
    outputs = [value for value in graph.outputs if value.name in reached]
    found = [value for value in outputs if value in squashed]
    if found and not any(value in compared for value in outputs):
        raise NotClassifierError(multi_label_message(str(found[0].name), f"{logits.name!r}", f"--logits {logits.name}"))


def multi_label_message(output: str, source: str, option: str) -> str:
    """Return the message that rejects a model as multi-label.

    Args:
        output: name of the output that shows that the model is multi-label.
        source: description of the value from which the output is computed.
        option: command-line option to pass if the model is not multi-label after all.
    """
    return (
        f"the model is multi-label: its output {output!r} is computed from each column of {source} separately, as "
        "with a sigmoid, so several classes may be true at once, but a guard can correct only one label per input. If "
        f"exactly one class is true for each input, and the label is the column with the largest value, pass {option}"
    )


def no_logits_message(graph: ir.Graph, end: Iterable[ir.Value]) -> str:
    """Return the error message for a model in which no logits are found, including a remedy if there is one.

    Args:
        graph: the user's graph.
        end: values from which the outputs are computed with no layer in between.
    """
    described = ", ".join(f"{value.name!r} ({value.dtype}, shape {value.shape})" for value in graph.outputs)
    text = (
        "mmguard cannot find the logits of a classifier in this model; expected float logits of shape (N, K), with "
        f"K at least 2, or an output derived from such logits, but the model's outputs are: {described}"
    )
    matrices = [value for value in end if _rank(value) == 2 and value.dtype in FLOATS and not _is_number(value)]
    if any(_thresholded(value) for value in graph.outputs):
        return (
            f"{text}. The model looks like a multi-label model, in which several classes may be true at once; mmguard "
            "cannot guard such models"
        )
    if matrices:
        names = ", ".join(str(value.name) for value in matrices[:5])
        return f"{text}. If the model is a classifier, pass the name of its logits with --logits; candidates: {names}"
    if all(_is_number(value) for value in graph.outputs):
        name = graph.outputs[0].name
        return (
            f"{text}. A model that outputs a single number is usually a regression model, which has no classes. If the "
            f"sigmoid of this number is the probability of the second of two classes, pass --logits {name}"
        )
    if any((_rank(value) or 0) > 2 for value in graph.outputs):
        return (
            f"{text}. The model looks like a detector, a segmentation model or a sequence model; mmguard cannot guard "
            "such models"
        )
    return text


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _is_number(value: ir.Value) -> bool:
    """Return whether the value is one float per input: (N, 1) or (N,)."""
    return value.dtype in FLOATS and (_rank(value) == 1 or (_rank(value) == 2 and value.shape[-1] == 1))  # type: ignore[index]


def _thresholded(value: ir.Value) -> bool:
    """Return whether the value is a non-float array (N, K), with K at least 2, that is computed with a threshold."""
    if value.dtype in FLOATS or _rank(value) != 2 or value.shape[-1] == 1:  # type: ignore[index]
        return False
    node = value.producer()
    while node is not None and node.op_type in FORWARDING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in SQUASHING
