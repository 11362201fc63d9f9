"""What the sessions of a bundle say of their inputs and outputs, held against its manifest before the first request."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import Manifest
from mmguard.errors import InferenceError, TamperedBundleError
from mmguard.runtime.batches import DTYPES

Logits = npt.NDArray[np.float32]
Shape = Sequence[int | str | None]


def check_session(session: Any, manifest: Manifest, form: str) -> Any:
    """Pass on a session that is what the manifest says of a form: `original`, `clipped` or `head`.

    Raises:
        TamperedBundleError: a name, dtype or length is another, or there is a second input.
    """
    return check_head(session, manifest) if form == "head" else check_network(session, manifest, form)


def check_network(session: Any, manifest: Manifest, form: str) -> Any:
    """Pass on a session that takes the manifest's input and gives its outputs and logits.

    Args:
        session: an `onnxruntime.InferenceSession`. form: `original` or `clipped`.

    Raises:
        TamperedBundleError: a name, dtype or length is another, or there is a second input.
    """
    spec, output = manifest.input, manifest.output
    _check_input(session, spec.name, spec.dtype, spec.shape, form)
    given = _outputs(session, form)
    for name in (*output.names, output.logits):
        if name not in given:
            raise _mismatch(form, f"no output {name!r} but {_named(given)}")
    kind, shape = given[output.logits]
    _check_shape(form, output.logits, shape, (None, len(manifest.classes)))
    if kind != "tensor(float)":
        raise _mismatch(form, f"logits {output.logits!r} of {kind}, not tensor(float)")
    return session


def check_head(session: Any, manifest: Manifest) -> Any:
    """Pass on a session that takes logits alone and gives the derived outputs.

    Raises:
        TamperedBundleError: a name, dtype or length is another, or there is a second input.
    """
    _check_input(session, manifest.output.logits, "float32", (None, len(manifest.classes)), "head")
    given = _outputs(session, "head")
    for name in manifest.output.derived:
        if name not in given:
            raise _mismatch("head", f"no output {name!r} but {_named(given)}")
    return session


def check_logits(logits: Any, n: int, classes: int) -> Logits:
    """Pass on logits (n, K) float32: what a session says of its outputs need not be all, or true.

    Raises:
        InferenceError: they are of another shape or dtype.
    """
    if not isinstance(logits, np.ndarray) or logits.shape != (n, classes) or logits.dtype != np.float32:
        got = f"{logits.dtype} {logits.shape}" if isinstance(logits, np.ndarray) else type(logits).__name__
        raise InferenceError(f"the network gave logits of {got} for {n} inputs, expected float32 {(n, classes)}")
    return logits


def _check_input(session: Any, name: str, dtype: str, shape: Shape, form: str) -> None:
    given = _described(session.get_inputs, form)
    if set(given) != {name}:
        raise _mismatch(form, f"inputs {_named(given)}, not {name!r} alone")
    kind, found = given[name]
    if DTYPES.get(kind) != dtype:
        raise _mismatch(form, f"an input {name!r} of {kind}, not of {dtype}")
    if not found:
        raise _mismatch(form, f"an input {name!r} whose axes are not declared")
    _check_shape(form, name, found, (None, *shape[1:]))  # batches of a fixed size are made of any


def _check_shape(form: str, name: str, found: Shape, expected: Shape) -> None:
    """Lengths that both sides know must be equal. ONNX Runtime gives no axes where it knows none."""
    known = [
        (a, b) for a, b in zip(found, expected, strict=False) if isinstance(a, int) and isinstance(b, int) and a > 0
    ]
    if (found and len(found) != len(expected)) or any(a != b for a, b in known):
        raise _mismatch(form, f"{name!r} of shape {tuple(found)}, not {tuple(expected)}")


def _outputs(session: Any, form: str) -> dict[str, tuple[str, Shape]]:
    return _described(session.get_outputs, form)


def _described(arguments: Any, form: str) -> dict[str, tuple[str, Shape]]:
    """Type and shape of a session's inputs, or outputs, by name."""
    try:
        return {each.name: (each.type, each.shape) for each in arguments()}
    except UnicodeDecodeError as error:
        raise _mismatch(form, f"a name that is not text: {error}") from error


def _named(given: dict[str, Any]) -> str:
    return ", ".join(map(repr, given)) or "none"


def _mismatch(form: str, what: str) -> TamperedBundleError:
    return TamperedBundleError(
        f"runtime_graphs.{form} of the bundle is not what its manifest says: it has {what}; do not use it"
    )
