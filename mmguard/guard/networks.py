"""Opens the two networks of a bundle. Both come from the same version, even if the bundle is replaced meanwhile."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmguard.bundle.bundle import ATTEMPTS, Bundle
from mmguard.errors import MmguardError, OptionError, ReplacedBundleError
from mmguard.guard.answer import Head
from mmguard.guard.forks import watch
from mmguard.guard.lanes import Lanes
from mmguard.guard.sessions import PROVIDERS, GraphSession, Network, run


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the default number of intra-op threads: half of this process's cores, or 1 if their number is unknown."""
    return max(1, cores() // 2) if hasattr(os, "sched_getaffinity") else 1


class NetworkPair:
    """The original and the clipped network of a bundle, and the output head.

    The clipped network runs on a worker thread. Without a screen, it runs while the caller's thread runs the original
    network, and adds hardly any latency if a core is idle or, on CUDA, if a second stream is free. Safe to call from
    many threads.

    Args:
        bundle: an open bundle.
        providers: ONNX Runtime execution providers in order of preference.
        threads: number of intra-op threads of each session; None uses half of the cores.

    Attributes:
        providers: the execution providers, in order of preference.
        original: the original network.
        clipped: the clipped network.
        head: function that computes the derived outputs; None if the model has no derived outputs.
        classes: number of classes K.
        lanes: the worker threads on which the clipped network runs.

    Raises:
        BundleError: a runtime graph does not match the manifest.
        ModelError: ONNX Runtime cannot load a runtime graph.
        OptionError: `threads` is less than 1.
        ProviderError: the first provider is not available.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[str], threads: int | None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, got {threads}")
        threads = threads or default_threads()
        manifest = bundle.manifest
        self.providers = tuple(providers)
        self._sessions = {form: GraphSession(bundle, form, providers, threads) for form in ("original", "clipped")}
        classes, columns = len(manifest.classes), manifest.activation_columns
        self.original = Network(self._sessions["original"], manifest.output, classes, columns)
        self.clipped = Network(self._sessions["clipped"], manifest.output, classes)
        self.head: Head | None = None
        if manifest.output.derived:  # the head only gets a few rows, so one CPU thread is enough
            session = self._sessions["head"] = GraphSession(bundle, "head", PROVIDERS["cpu"], 1)
            self.head = lambda logits: run(session.get(), manifest.output.derived, logits)
        self.classes = classes
        self.lanes = Lanes(max(2, cores()))
        watch(self)

    def close(self) -> None:
        """Stop the worker threads once the batches in flight have finished."""
        self.lanes.close()

    def ready(self) -> None:
        """If this process was forked, reopen the sessions now, so that the first batch is not late.

        Raises:
            BundleError: the bundle differs from the bundle that the parent process opened.
            ProviderError: the first provider is not available in this process.
        """
        for session in self._sessions.values():
            session.get()

    def reset_after_fork(self) -> None:
        """Discard the parent process's threads and the batches that are waiting for those threads."""
        closed, self.lanes = self.lanes.closed, Lanes(max(2, cores()))
        if closed:
            self.close()


def open_networks(
    bundle: str | Path | Bundle, providers: Sequence[str], threads: int | None
) -> tuple[Bundle, NetworkPair]:
    """Open a bundle and its networks. If the bundle is already open, open only its networks.

    If the bundle at the path is replaced before the sessions have read its files, the new bundle is opened instead.

    Args:
        bundle: path of a bundle, or an open `Bundle`.
        providers: ONNX Runtime execution providers in order of preference.
        threads: number of intra-op threads of each session; None uses half of the cores.

    Returns:
        The open bundle and its networks.

    Raises:
        MmguardError: the bundle or a network cannot be opened; see `Bundle.open` and `NetworkPair`.
        ReplacedBundleError: the open bundle was replaced, or the bundle at the path was replaced during every attempt.
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
    raise ReplacedBundleError(f"{bundle} was replaced every time mmguard tried to open it; try again later")


def _networks(bundle: Bundle, providers: Sequence[str], threads: int | None) -> NetworkPair:
    networks = NetworkPair(bundle, providers, threads)
    if not bundle.in_place:
        networks.close()
    bundle.require_in_place()
    return networks
