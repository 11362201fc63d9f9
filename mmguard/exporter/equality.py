"""Check an exported network: ONNX's full checker, and equality with what was learned."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import GraphMismatchError, NotOnnxError
from mmguard.exporter.tolerance import FLOAT
from mmguard.runtime.batches import run_session
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
    """Check that an ONNX file is valid and gives the expected logits in ONNX Runtime.

    Args:
        path: ONNX file.
        x: (N, ...) float32 inputs. logits: (N, K) float32 expected on them.
        name: name of the output to compare. tolerance: largest difference allowed, relative to the largest logit.
        checked: whether ONNX's checker must pass it, as it passed the user's own file.

    Returns:
        The largest difference, relative to the largest logit (at least 1).

    Raises:
        NotOnnxError: the checker refuses the file.
        GraphMismatchError: the difference is above that.
    """
    try:
        if checked:
            onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NotOnnxError(f"{path.name}: ONNX's checker refuses the exported network: {error}") from error
    difference = relative_difference(run(path, x, name), logits)
    if not difference <= tolerance:
        raise GraphMismatchError(
            f"{path.name} differs from the network that it should be by {difference:.2g} of the largest logit (at most "
            f"{tolerance} is allowed), so that no bundle is written; please report the model"
        )
    return difference


def check_head(
    head: Path, original: Path, x: npt.NDArray[np.float32], output: OutputSpec, tolerance: float = FLOAT
) -> None:
    """Check that the head makes of the original's logits what the original itself answers.

    Args:
        head, original: ONNX files of these runtime_graphs. x: (N, ...) float32 inputs. output: the user's outputs.
        tolerance: relative and absolute.

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
                f"{head.name} does not give output {name!r} of the logits, so that no bundle is written; report it"
            )


def _alike(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two outputs are equal: numbers within the tolerance, all else exactly."""
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(
            one.keys() == other.keys() and np.allclose(list(one.values()), list(other.values()), tolerance, tolerance)
            for one, other in zip(got, wanted, strict=True)
        )
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    floating = wanted.dtype.kind == "f"
    return bool(np.allclose(got, wanted, tolerance, tolerance) if floating else (got == wanted).all())


def relative_difference(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest absolute difference over the largest absolute expected value (at least 1)."""
    return float(np.abs(got - expected).max() / max(1.0, float(np.abs(expected).max())))


def run(path: Path, x: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """Run an ONNX file on the CPU in batches of 100; returns the output `name`, (N, ...)."""
    session = new_session(path)
    return np.concatenate([run_session(session, [name], x[i : i + BATCH])[0] for i in range(0, len(x), BATCH)])
