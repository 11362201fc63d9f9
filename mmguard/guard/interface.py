"""Checks a session's inputs and outputs against the bundle's manifest, before the first request."""

from collections.abc import Sequence
from typing import Any

from mmguard.bundle.manifest import ACTIVATIONS, Manifest
from mmguard.errors import TamperedBundleError
from mmguard.runtime.dtypes import INPUT_DTYPE_BY_ORT_TYPE

Shape = Sequence[int | str | None]


def check_session(session: Any, manifest: Manifest, form: str) -> None:
    """Check that a session has the inputs and outputs that the manifest describes.

    A network must take only the manifest's input, and return the model's own outputs and the logits. The head must take
    only the logits, and return the derived outputs.

    Args:
        session: an `onnxruntime.InferenceSession`.
        manifest: the bundle's manifest.
        form: key of `runtime_graphs`: `original`, `clipped` or `head`.

    Raises:
        TamperedBundleError: a name, a dtype or the length of an axis differs from the manifest, or the session has a
            second input.
    """
    spec, output, classes = manifest.input, manifest.output, len(manifest.classes)
    if form == "head":
        _check_input(session, output.logits, "float32", (None, classes), form)
        _check_outputs(session, output.derived, form)
        return
    _check_input(session, spec.name, spec.dtype, spec.shape, form)
    rows = {output.logits: ("logits", classes)}
    if form == "original" and manifest.evidence:
        rows[ACTIVATIONS] = ("activations", manifest.activation_columns)
    given = _check_outputs(session, (*output.names, *rows), form)
    for name, (what, width) in rows.items():
        kind, shape = given[name]
        _check_shape(form, name, shape, (None, width))
        if kind != "tensor(float)":
            raise TamperedBundleError(_mismatch(form, f"{what} {name!r} of type {kind}, not tensor(float)"))


def _check_input(session: Any, name: str, dtype: str, shape: Shape, form: str) -> None:
    given = _described(session.get_inputs, form)
    if set(given) != {name}:
        raise TamperedBundleError(_mismatch(form, f"unexpected inputs: expected only {name!r}, got {_named(given)}"))
    kind, found = given[name]
    if INPUT_DTYPE_BY_ORT_TYPE.get(kind) != dtype:
        raise TamperedBundleError(_mismatch(form, f"an input {name!r} of type {kind}, not {dtype}"))
    if not found:
        raise TamperedBundleError(_mismatch(form, f"an input {name!r} without declared axes"))
    _check_shape(form, name, found, (None, *shape[1:]))  # any batch size is fine: the guard splits and pads batches


def _check_outputs(session: Any, names: Sequence[str], form: str) -> dict[str, tuple[str, Shape]]:
    """Check that a session has outputs with these names. Return the type and shape of each of its outputs, by name."""
    given = _described(session.get_outputs, form)
    for name in names:
        if name not in given:
            raise TamperedBundleError(_mismatch(form, f"no output {name!r} (its outputs: {_named(given)})"))
    return given


def _check_shape(form: str, name: str, found: Shape, expected: Shape) -> None:
    """Check that the known axis lengths of two shapes are equal. ONNX Runtime reports an unknown shape as empty."""
    known = [
        (a, b) for a, b in zip(found, expected, strict=False) if isinstance(a, int) and isinstance(b, int) and a > 0
    ]
    if (found and len(found) != len(expected)) or any(a != b for a, b in known):
        raise TamperedBundleError(_mismatch(form, f"a tensor {name!r} of shape {tuple(found)}, not {tuple(expected)}"))


def _described(arguments: Any, form: str) -> dict[str, tuple[str, Shape]]:
    """Return the type and shape of each of a session's inputs or outputs, by name."""
    try:
        return {each.name: (each.type, each.shape) for each in arguments()}
    except UnicodeDecodeError as error:
        raise TamperedBundleError(_mismatch(form, f"a name that is not UTF-8 text: {error}")) from error


def _named(given: dict[str, Any]) -> str:
    return ", ".join(map(repr, given)) or "none"


def _mismatch(form: str, what: str) -> str:
    return (
        f"runtime_graphs.{form} of the bundle does not match its manifest: the graph has {what}; do not use this bundle"
    )
