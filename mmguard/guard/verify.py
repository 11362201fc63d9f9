"""Check that a bundle computes here what it computed where it was calibrated."""

from collections.abc import Sequence

import numpy as np

from mmguard.bundle import Bundle
from mmguard.errors import GraphMismatchError
from mmguard.guard.sessions import NetworkPair

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest: providers and kernels stay well below."""


def verify_bundle(bundle: Bundle, providers: Sequence[str]) -> float:
    """Run both networks on the stored probes.

    Args:
        bundle: an open bundle; its hashes have been checked.
        providers: ONNX Runtime's execution providers, the wanted one first.

    Returns:
        The largest difference of a logit, relative to the largest logit (at least 1).

    Raises:
        GraphMismatchError: a network differs by more than 1e-3.
        ProviderError: the provider cannot be had.
    """
    probes, networks = bundle.probes(), NetworkPair(bundle, providers, None)
    differences = {}
    for form, network in (("original", networks.original), ("clipped", networks.clipped)):
        expected = getattr(probes, form)
        difference = np.abs(network(probes.x).logits - expected).max() / max(1.0, np.abs(expected).max())
        differences[form] = float(difference)
        if not difference <= TOLERANCE:
            raise GraphMismatchError(
                f"{bundle.path}: the {form} network differs from its stored logits by {difference:.2g} relative "
                f"on {networks.providers[0]} (at most {TOLERANCE} is allowed); calibrate again on this runtime"
            )
    networks.close()
    return max(differences.values())
