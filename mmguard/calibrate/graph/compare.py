"""Compares the differentiable graph with ONNX Runtime, which is what the guard will run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.errors import GraphMismatchError, ModelError, UnsupportedOperatorError
from mmguard.runtime.batches import run_session
from mmguard.runtime.session import new_session

Arrays = Mapping[str, npt.NDArray[Any]]

_ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)


def assert_matches_onnxruntime(
    graph: DifferentiableGraph,
    model_path: str | Path,
    x: npt.NDArray[np.float32],
    output_name: str,
    tolerance: float = 1e-4,
) -> None:
    """Runs both forms of one network on real samples, and refuses where they differ.

    Both run on the CPU, since a GPU may round products to TF32; the graph then goes back to its device.

    Args:
        graph: the differentiable form; its output is `output_name`.
        model_path: the ONNX file that the graph was made from.
        x: (N, ...) samples, as the model takes them.
        output_name: ONNX name of the value to compare, which may lie inside the graph.
        tolerance: largest difference allowed, as a share of the largest logit or of 1, whichever is more.

    Raises:
        GraphMismatchError: where they differ, naming the first node in the graph's order whose output does.
        ModelError: ONNX Runtime cannot load the model, or cannot run it on x; or PyTorch cannot, where it can.
    """
    try:
        expected = _onnxruntime_values(Path(model_path), x, [output_name])[output_name]
    except _ORT_ERRORS as error:
        if isinstance(error, onnxruntime_pybind11_state.NotImplemented):
            cause = "it has no kernel for one of its nodes, perhaps in this precision; export the model in float32"
        else:
            cause = (
                "if it names a shape, export the model with a dynamic batch axis, or give inputs of the size it was "
                "made for"
            )
        raise ModelError(f"ONNX Runtime cannot run the model on inputs of shape {x.shape}; {cause}: {error}") from error
    try:
        actual = _pytorch_values(graph, x, [graph.output])[graph.output]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        where = "; ".join(getattr(error, "__notes__", []))
        raise UnsupportedOperatorError(
            f"ONNX Runtime runs the model on inputs of shape {x.shape}, and PyTorch cannot {where}: {error}. Please "
            "report the operator; until it is mended, export the model again so that it uses another one"
        ) from error
    if not (difference := _excess(actual, expected, tolerance)):
        return
    recorded = _pytorch_values(graph, x, graph.values)
    reference = _onnxruntime_values(Path(model_path), x, list(recorded))
    raise GraphMismatchError(
        f"On {len(x)} real samples, {output_name!r} in PyTorch should equal ONNX Runtime's within {tolerance:g}, "
        f"but {difference}. {_first_difference(Path(model_path), recorded, reference, tolerance)} Please report "
        "the operator; until it is mended, export the model again so that it uses another one."
    )


@torch.no_grad()
def _pytorch_values(
    graph: DifferentiableGraph, x: npt.NDArray[np.float32], names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Values of the graph by PyTorch on the CPU."""
    device = next((buffer.device for buffer in graph.buffers()), torch.device("cpu"))
    try:
        values = graph.cpu().record(torch.from_numpy(x), names)
    finally:
        graph.to(device)
    return {name: value.numpy() for name, value in values.items()}


def _onnxruntime_values(
    model_path: Path, x: npt.NDArray[np.float32], names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Values of the graph, outputs or not, by ONNX Runtime on one CPU thread."""
    session = _session(model_path)
    if {output.name for output in session.get_outputs()}.issuperset(names):
        return dict(zip(names, run_session(session, names, x), strict=True))
    with TemporaryDirectory() as folder:
        session = _session(_with_outputs(model_path, names, Path(folder)))
        return dict(zip(names, run_session(session, names, x), strict=True))


def _session(model_path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised
    return new_session(model_path, options)


def _with_outputs(model_path: Path, names: Sequence[str], folder: Path) -> Path:
    """A copy of the model that also returns the values named."""
    model = ir.load(model_path)
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        model.graph.outputs.extend(v for v in node.outputs if v.name in names and v.name not in outputs)
    copy = folder / "model.onnx"
    ir.save(model, copy, external_data="model.data")  # models above 2 GB cannot keep their weights inside
    return copy


def _excess(actual: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> str:
    """By how much two arrays differ, in words; empty where they agree."""
    if actual.shape != expected.shape:
        return f"its shape is {actual.shape} where {expected.shape} is expected"
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        largest = np.where(a == b, 0.0, np.abs(a - b)).max(initial=0.0)
    allowed = tolerance * max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0.0))
    return "" if largest <= allowed else f"the largest difference is {largest:.3g}"


def _first_difference(model_path: Path, recorded: Arrays, reference: Arrays, tolerance: float) -> str:
    for node in ir.load(model_path).graph:
        for name in (value.name or "" for value in node.outputs):
            if name in recorded and (difference := _excess(recorded[name], reference[name], tolerance)):
                return f"The first node that differs is {node.op_type} {node.name!r} -> {name!r}: {difference}."
    return "No single node differs by that much."
