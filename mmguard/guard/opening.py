"""A bundle and its sessions, which are of one folder even while a calibration replaces it."""

from collections.abc import Sequence
from pathlib import Path

from mmguard.bundle.bundle import ATTEMPTS, Bundle
from mmguard.errors import MmguardError, ReplacedBundleError
from mmguard.guard.sessions import NetworkPair


def open_networks(
    bundle: str | Path | Bundle, providers: Sequence[str], threads: int | None
) -> tuple[Bundle, NetworkPair]:
    """Open a bundle's sessions, and the bundle where its path is given.

    A path is opened anew where another bundle takes its place before the sessions have read their files.

    Raises:
        BundleError: no bundle, or one that was changed.
        ReplacedBundleError: an open bundle was replaced, or one at a path again and again.
        ModelError, OptionError, ProviderError: as `NetworkPair` raises them.
    """
    if isinstance(bundle, Bundle):
        return bundle, _networks(bundle, providers, threads)
    for _ in range(ATTEMPTS):
        opened = Bundle.open(bundle)
        try:
            return opened, _networks(opened, providers, threads)
        except MmguardError:
            if opened.in_place:
                raise
    raise ReplacedBundleError(f"{bundle} was replaced again each time it was opened; try again later")


def _networks(bundle: Bundle, providers: Sequence[str], threads: int | None) -> NetworkPair:
    networks = NetworkPair(bundle, providers, threads)
    if not bundle.in_place:
        networks.close()
    bundle.require_in_place()
    return networks
