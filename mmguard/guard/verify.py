"""Check that a bundle computes here what it computed where it was calibrated, by all that serving runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmguard.bundle.bundle import Bundle
from mmguard.errors import GraphMismatchError
from mmguard.guard.answer import guarded_outputs
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.sessions import NetworkOutput

TOLERANCE = 1e-3
"""Largest difference of a number, relative to the largest: providers and kernels stay well below."""


def verify_bundle(bundle: Bundle, providers: Sequence[str]) -> float:
    """Run both networks, the head and the guard's whole decision on the stored probes.

    Args:
        bundle: an open bundle; its hashes have been checked.
        providers: ONNX Runtime's execution providers, the wanted one first.

    Returns:
        The largest difference of a logit, relative to the largest logit (at least 1).

    Raises:
        GraphMismatchError: a network's logits, or what the head makes of them, differ by more than 1e-3.
        TamperedBundleError: a network is not of the manifest's names, dtypes and widths, or a stored number not finite.
        InferenceError: a network failed on the probes.
        ProviderError: the provider cannot be had.
    """
    probes = bundle.probes()
    bundle.bounds()
    x = probes.x.astype(bundle.manifest.input.dtype)
    with Guard(bundle, providers=providers, registry=None) as guard:
        original, clipped = guard.networks.original(x), guard.networks.clipped(x)
        differences = [
            _require_equal(guard, f"the {form} network's logits", network.logits, getattr(probes, form))
            for form, network in (("original", original), ("clipped", clipped))
        ]
        _verify_head(guard, original)
        _verify_answer(guard, x, original, clipped)
    return max(differences)


def _verify_head(guard: Guard, original: NetworkOutput) -> None:
    """What the head makes of the original's logits is what the original itself answers."""
    if guard.networks.head is None:
        return
    derived = guard.bundle.manifest.output.derived
    for name, made in zip(derived, guard.networks.head(original.logits), strict=True):
        _require_equal(
            guard, f"output {name!r} as runtime_graphs.head makes it of the logits", made, original.outputs[name]
        )


def _verify_answer(guard: Guard, x: Batch, original: NetworkOutput, clipped: NetworkOutput) -> None:
    """The guard answers as it would a request, and also where every row is corrected."""
    decision = guard(x)
    if guard.bundle.manifest.null is not None:
        corrected = replace(decision, corrected=np.ones(len(x), np.bool_))
        spec = guard.bundle.manifest.output
        guarded_outputs(original.outputs, clipped.logits, corrected, spec, guard.networks.head)


def _require_equal(guard: Guard, what: str, got: Any, expected: Any) -> float:
    difference = _difference(got, expected)
    if not difference <= TOLERANCE:
        raise GraphMismatchError(
            f"{guard.bundle.path}: {what} differs by {difference:.2g} relative from what is expected on "
            f"{guard.networks.providers[0]} (at most {TOLERANCE} is allowed); calibrate again on this runtime"
        )
    return difference


def _difference(got: Any, expected: Any) -> float:
    """Largest difference over the largest number (at least 1); infinite where outputs are of different kinds."""
    if isinstance(expected, list) or isinstance(got, list):  # of maps
        if [list(row) for row in got] != [list(row) for row in expected]:
            return np.inf
        got, expected = ([list(row.values()) for row in rows] for rows in (got, expected))
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.inf
    if expected.dtype.kind != "f":
        return 0.0 if (got == expected).all() else np.inf
    a, b = got.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(a - b)).max(initial=0.0)
    return float(np.nan_to_num(off / max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0.0)), nan=np.inf))
