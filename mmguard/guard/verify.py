"""Checks that a bundle computes the same results on this machine as on the machine where it was calibrated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmguard.bundle.bundle import Bundle
from mmguard.errors import GraphMismatchError, OptionError
from mmguard.guard.answer import guarded_outputs
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.policy import Policy
from mmguard.guard.sessions import PROVIDERS, NetworkOutput
from mmguard.runtime.difference import relative_difference

TOLERANCE = 1e-3
"""Largest relative difference allowed. Results of different execution providers and kernels differ by far less."""


def verify_bundle(bundle: str | Path | Bundle, device: str = "cpu") -> float:
    """Verify a bundle on this machine, like `mmguard verify`.

    Check the size and hash of every file. Then run everything that serving runs (both networks, the output head and the
    guard's decision) on the probes stored in the bundle. Compare both networks' logits with the logits stored in the
    bundle, what the test reads of activations with the stored values, and the head's outputs with those of the original
    network.

    Args:
        bundle: path of a guard bundle; or an open `Bundle`, whose hashes were checked when it was opened.
        device: device on which the networks run, `cpu` or `cuda`.

    Returns:
        The largest relative difference of the two networks' logits and of the activations. A relative difference is the
        largest absolute difference between computed and stored values, divided by the largest absolute stored value; of
        activations, in each column. If the divisor is less than 1, it is replaced by 1.

    Raises:
        OptionError: the device is neither `cpu` nor `cuda`.
        BundleError: there is no bundle at the path, or its schema version is unknown.
        GraphMismatchError: a network's logits differ from the stored logits, or the head's outputs differ from those of
            the original network, by a relative difference of more than 1e-3.
        TamperedBundleError: a file was changed, the names, dtypes or axis lengths of a network do not match the
            manifest, or a number stored in the bundle is not finite.
        InferenceError: a network failed on the probes.
        ProviderError: the device is not available.
    """
    if device not in tuple(PROVIDERS):
        raise OptionError(f"device must be one of {', '.join(PROVIDERS)}, got {device!r}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    probes = opened.probes()
    opened.bounds()  # checks that the bounds are finite
    x = probes.x.astype(opened.manifest.input.dtype)
    with Guard(opened, providers=PROVIDERS[device], policy=Policy(screen=0), registry=None) as guard:
        original, clipped = guard.networks.original(x), guard.networks.clipped(x)
        differences = [
            _require_equal(
                guard,
                f"the {form} network's logits",
                network.logits,
                getattr(probes, form),
                "the logits stored in the bundle",
            )
            for form, network in (("original", original), ("clipped", clipped))
        ]
        if probes.activations is not None and original.activations is not None:
            stored = "the activations stored in the bundle"
            differences += [  # by column, because distances can be many times as large as the excess
                _require_equal(guard, "activations", found, expected, stored)
                for found, expected in zip(original.activations.T, probes.activations.T, strict=True)
            ]
        _verify_head(guard, original)
        _verify_answer(guard, x, original, clipped)
    return max(differences)


def _verify_head(guard: Guard, original: NetworkOutput) -> None:
    """Check that the head computes the original network's outputs from the original network's logits."""
    if guard.networks.head is None:
        return
    derived = guard.bundle.manifest.output.derived
    for name, made in zip(derived, guard.networks.head(original.logits), strict=True):
        _require_equal(
            guard,
            f"output {name!r} of runtime_graphs.head",
            made,
            original.outputs[name],
            "the original network's output",
        )


def _verify_answer(guard: Guard, x: Batch, original: NetworkOutput, clipped: NetworkOutput) -> None:
    """Check that the guard can answer a request that contains the probes, even if every row is corrected."""
    decision = guard(x)
    if guard.bundle.manifest.null is not None:
        corrected = replace(decision, corrected=np.ones(len(x), np.bool_))
        spec = guard.bundle.manifest.output
        guarded_outputs(original.outputs, clipped.logits, corrected, spec, guard.networks.head)


def _require_equal(guard: Guard, what: str, got: Any, expected: Any, reference: str) -> float:
    difference = relative_difference(got, expected, equal_nan=True)
    if not difference <= TOLERANCE:
        raise GraphMismatchError(
            f"{guard.bundle.path}: {what} on {guard.networks.providers[0]}: expected a relative difference of at most "
            f"{TOLERANCE} from {reference}, got {difference:.2g}; calibrate the model again with this runtime"
        )
    return difference
