"""Models that give something else than one class of several: multi-label ones, regressors, detectors."""

from collections.abc import Collection, Iterable

import onnx_ir as ir

from mmguard.errors import NotClassifierError

SQUASHING = frozenset({"Equal", "Greater", "GreaterOrEqual", "HardSigmoid", "Less", "LessOrEqual", "Sigmoid"})
"""Operators that say of each column by itself whether, or how surely, it is true."""
BETWEEN = frozenset({"ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "LpNormalization", "Normalizer", "Softmax", "TopK"})
"""Operators, with the reductions, by which columns are compared: then one class is chosen, or the columns share 1."""
FORWARDING = frozenset({"Cast", "Flatten", "Identity", "Not", "Reshape", "Squeeze", "Unsqueeze", "Where"})
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def require_single_label(graph: ir.Graph, scores: ir.Value, reached: Collection[str]) -> None:
    """Refuse a model that says of each class by itself whether it is true: several may be, and one label is corrected.

    Args:
        scores: the value (N, K) that is taken as the logits. reached: names of the values that are made of it alone.

    Raises:
        NotClassifierError: names the output.
    """
    if scores.shape is not None and scores.shape[-1] == 1:
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
        raise NotClassifierError(multi_label(str(found[0].name), f"{scores.name!r}", f"--logits {scores.name}"))


def multi_label(output: str, made_of: str, option: str) -> str:
    """Why a model is refused as multi-label, and what to do if it is not."""
    return (
        f"the model is multi-label: its output {output!r} says separately for each column of {made_of} whether it is "
        "true, as sigmoids do, so several classes may be true at once, and a guard corrects a single label. If exactly "
        f"one class is true of each input, and the label is the largest column, say so with {option}"
    )


def complaint(graph: ir.Graph, end: Iterable[ir.Value]) -> str:
    """Why no logits are found, and what to do where something helps.

    Args:
        end: values that the outputs are made of without a layer.
    """
    described = ", ".join(f"{value.name!r} is {value.dtype} of shape {value.shape}" for value in graph.outputs)
    text = (
        f"the model is no classifier that mmguard can find the logits of: its output {described}; a classifier gives "
        "float scores of shape (N, K), at least two classes, or what is decided from such"
    )
    matrices = [value for value in end if _rank(value) == 2 and value.dtype in FLOATS and not _is_number(value)]
    if any(_thresholded(value) for value in graph.outputs):
        return f"{text}; this looks like a multi-label model, of which several classes may be true, and is not guarded"
    if matrices:
        names = ", ".join(str(value.name) for value in matrices[:5])
        return f"{text}; if it is one, name its scores with --logits: {names}"
    if all(_is_number(value) for value in graph.outputs):
        name = graph.outputs[0].name
        return (
            f"{text}; one number is what a regression gives, which has no classes. If its sigmoid is the probability "
            f"of the second of two classes, say so with --logits {name}"
        )
    if any((_rank(value) or 0) > 2 for value in graph.outputs):
        return f"{text}; this looks like a detector, a segmentation or a sequence model, and these are not guarded"
    return text


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _is_number(value: ir.Value) -> bool:
    """Whether it is one number an input: (N, 1) or (N,)."""
    return value.dtype in FLOATS and (_rank(value) == 1 or (_rank(value) == 2 and value.shape[-1] == 1))  # type: ignore[index]


def _thresholded(value: ir.Value) -> bool:
    """Whether it is (N, K) of what a threshold gives, K at least 2."""
    if value.dtype in FLOATS or _rank(value) != 2 or value.shape[-1] == 1:  # type: ignore[index]
        return False
    node = value.producer()
    while node is not None and node.op_type in FORWARDING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in SQUASHING
