"""Check that an exported network is valid ONNX and returns the same results as the network it was exported from."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mmguard.bundle.manifest import ACTIVATIONS, OutputSpec
from mmguard.errors import GraphMismatchError, NotOnnxError
from mmguard.exporter.tolerance import FLOAT
from mmguard.runtime.batches import run_session
from mmguard.runtime.difference import comparable, relative_difference
from mmguard.runtime.session import new_session

BATCH = 100


def check_export(
    path: Path,
    x: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    name: str,
    tolerance: float = FLOAT,
    checked: bool = True,
) -> float:
    """Check that an ONNX file is valid and returns the expected logits in ONNX Runtime.

    Args:
        path: ONNX file.
        x: (N, ...) float32 inputs.
        logits: (N, K) float32 logits expected for x.
        name: name of the output to compare.
        tolerance: largest difference allowed, relative to the largest logit.
        checked: whether the file must pass ONNX's checker; False only if the user's own file fails that check.

    Returns:
        The largest difference, divided by the largest logit or by 1, whichever is greater.

    Raises:
        NotOnnxError: the checker rejects the file.
        GraphMismatchError: the difference exceeds the tolerance, or a logit is NaN or infinite.
    """
    try:
        if checked:
            onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NotOnnxError(f"{path.name}: ONNX's checker rejects the exported network: {error}") from error
    if not np.isfinite(logits).all():
        raise GraphMismatchError(
            f"expected {path.name} to return finite logits, but some are NaN or infinite; no bundle is written; please "
            "report this as a bug"
        )
    difference = relative_difference(run(path, x, name), logits)
    if not difference <= tolerance:
        raise GraphMismatchError(
            f"expected {path.name} to return the same logits as the original network, within {tolerance} times the "
            f"largest logit, but the largest difference is {difference:.2g} times the largest logit; no bundle is "
            "written; please report this as a bug"
        )
    return difference


def check_activations(
    path: Path, x: npt.NDArray[np.float32], expected: npt.NDArray[np.float64], tolerance: float
) -> None:
    """Check that a runtime graph returns what the test is expected to read of activations.

    Args:
        path: ONNX file of the original network's runtime graph.
        x: (N, ...) float32 inputs.
        expected: (N, S + 1) squared distances at S sites, and the excess.
        tolerance: largest difference allowed, relative to the largest expected value of each column.

    Raises:
        GraphMismatchError: a value differs.
    """
    found = run(path, x, ACTIVATIONS)
    difference = float((np.abs(found - expected) / np.maximum(expected.max(axis=0), 1)).max())
    if not difference <= tolerance:
        raise GraphMismatchError(
            f"expected {path.name} to return the distances and the excess of activations that calibration computed, "
            f"within {tolerance} times the largest value, but the largest difference is {difference:.2g}; no bundle is "
            "written; please report this as a bug"
        )


def check_head(
    head: Path, original: Path, x: npt.NDArray[np.float32], output: OutputSpec, tolerance: float = FLOAT
) -> None:
    """Check that the head, given the original network's logits, returns the original network's outputs.

    Args:
        head: ONNX file of the head.
        original: ONNX file of the original network's runtime graph.
        x: (N, ...) float32 inputs; only the first 100 are run.
        output: the names of the outputs of the user's model, and of the logits.
        tolerance: largest difference allowed, used as both the relative and the absolute tolerance.

    Raises:
        GraphMismatchError: an output differs.
    """
    names = [*output.derived, output.logits]
    session = new_session(original)
    *expected, logits = run_session(session, names, x[:BATCH])
    made = run_session(new_session(head), output.derived, logits)
    for name, got, wanted in zip(output.derived, made, expected, strict=True):
        if not _alike(got, wanted, tolerance):
            raise GraphMismatchError(
                f"output {name!r} of {head.name} differs from the model's own output for the same logits; no bundle is "
                "written; please report this as a bug"
            )


def _alike(got: Any, wanted: Any, tolerance: float) -> bool:
    """Return whether two outputs are equal: floats within the tolerance, everything else exactly."""
    pair = comparable(got, wanted)
    if pair is None:
        return False
    a, b = pair
    return bool(np.allclose(a, b, tolerance, tolerance) if b.dtype.kind == "f" else (a == b).all())


def run(path: Path, x: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """Run an ONNX file on the CPU in batches of 100.

    Args:
        path: ONNX file.
        x: (N, ...) float32 inputs.
        name: name of the output to return.

    Returns:
        The output, (N, ...).
    """
    session = new_session(path)
    return np.concatenate([run_session(session, [name], x[i : i + BATCH])[0] for i in range(0, len(x), BATCH)])
