"""Compare the differentiable graph with ONNX Runtime, which the guard uses for inference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import torch

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.errors import GraphMismatchError, ModelError, UnsupportedOperatorError
from mmguard.runtime.batches import run_session
from mmguard.runtime.difference import absolute_difference, relative_difference
from mmguard.runtime.session import ORT_ERRORS, ORT_NOT_IMPLEMENTED, new_session

Arrays = Mapping[str, npt.NDArray[Any]]

_WHAT_TO_DO = (
    "Please report this problem to the mmguard project; until it is fixed, export the model with different operators."
)


def assert_matches_onnxruntime(
    graph: DifferentiableGraph,
    model_path: str | Path,
    x: npt.NDArray[np.float32],
    output_name: str,
    tolerance: float = 1e-4,
) -> None:
    """Run a network in PyTorch and in ONNX Runtime on real inputs, and check that the results agree.

    Both runs use the CPU, because a GPU may round products to TF32. Afterwards, the graph is moved back to its device.

    Args:
        graph: the network in PyTorch; its output is `output_name`.
        model_path: ONNX file that the graph was made from.
        x: (N, ...) inputs in the form that the model takes.
        output_name: ONNX name of the value to compare, which need not be an output of the ONNX graph.
        tolerance: maximum allowed difference, as a fraction of the largest absolute logit or of 1, whichever is larger.

    Raises:
        GraphMismatchError: the results differ. The message names the first node, in graph order, whose output differs.
        ModelError: ONNX Runtime cannot load the model or run it on `x`.
        UnsupportedOperatorError: PyTorch cannot run the graph on `x`, although ONNX Runtime can.
    """
    try:
        expected = _onnxruntime_values(Path(model_path), x, [output_name])[output_name]
    except ORT_ERRORS as error:
        raise ModelError(
            f"ONNX Runtime cannot run the model on inputs of shape {x.shape}; {_advice(error)}: {error}"
        ) from error
    try:
        actual = _pytorch_values(graph, x, [graph.output])[graph.output]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        where = "; ".join(getattr(error, "__notes__", []))
        raise UnsupportedOperatorError(
            f"ONNX Runtime runs the model on inputs of shape {x.shape}, but mmguard cannot run it in PyTorch ({where}: "
            f"{error}). {_WHAT_TO_DO}"
        ) from error
    if not (difference := _excess(actual, expected, tolerance)):
        return
    recorded = _pytorch_values(graph, x, graph.values)
    reference = _onnxruntime_values(Path(model_path), x, list(recorded))
    raise GraphMismatchError(
        f"expected the values of {output_name!r} in PyTorch and in ONNX Runtime to differ by at most {tolerance:g} "
        f"(relative difference) on {len(x)} clean inputs, but {difference}. "
        f"{_first_difference(Path(model_path), recorded, reference, tolerance)} "
        f"{_WHAT_TO_DO}"
    )


def _advice(error: Exception) -> str:
    """Return the likely cause of an ONNX Runtime error and a suggested fix."""
    if isinstance(error, ORT_NOT_IMPLEMENTED):
        return (
            "ONNX Runtime has no kernel for one of the nodes, perhaps because of the node's data type; export the "
            "model in float32"
        )
    return (
        "if the following error mentions a shape, export the model with a dynamic batch axis, or provide inputs of the "
        "size that the model was exported for"
    )


@torch.no_grad()
def _pytorch_values(
    graph: DifferentiableGraph, x: npt.NDArray[np.float32], names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Compute values of the graph in PyTorch, on the CPU."""
    device = next((buffer.device for buffer in graph.buffers()), torch.device("cpu"))
    try:
        values = graph.cpu().record(torch.from_numpy(x), names)
    finally:
        graph.to(device)
    return {name: value.numpy() for name, value in values.items()}


def _onnxruntime_values(
    model_path: Path, x: npt.NDArray[np.float32], names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Compute values of the graph in ONNX Runtime, on one CPU thread; the values need not be outputs of the graph."""
    session = _session(model_path)
    if {output.name for output in session.get_outputs()}.issuperset(names):
        return dict(zip(names, run_session(session, names, x), strict=True))
    with TemporaryDirectory() as folder:
        session = _session(_with_outputs(model_path, names, Path(folder)))
        return dict(zip(names, run_session(session, names, x), strict=True))


def _session(model_path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, so they need not be logged
    return new_session(model_path, options)


def _with_outputs(model_path: Path, names: Sequence[str], folder: Path) -> Path:
    """Write a copy of the model that also outputs the named values, and return its path."""
    model = ir.load(model_path)
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        model.graph.outputs.extend(v for v in node.outputs if v.name in names and v.name not in outputs)
    copy = folder / "model.onnx"
    ir.save(model, copy, external_data="model.data")  # ONNX files cannot exceed 2 GB
    return copy


def _excess(actual: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> str:
    """Describe the difference between two arrays; return an empty string if they agree within the tolerance."""
    if actual.shape != expected.shape:
        return f"the output shape is {actual.shape} in PyTorch but {expected.shape} in ONNX Runtime"
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    if relative_difference(a, b) <= tolerance:
        return ""
    return f"the largest absolute difference is {absolute_difference(a, b):.3g}"


def _first_difference(model_path: Path, recorded: Arrays, reference: Arrays, tolerance: float) -> str:
    for node in ir.load(model_path).graph:
        for name in (value.name or "" for value in node.outputs):
            if name in recorded and (difference := _excess(recorded[name], reference[name], tolerance)):
                return f"The first node whose output differs is {node.op_type} {node.name!r} -> {name!r}: {difference}."
    return "The outputs of each individual node agree within this tolerance."
