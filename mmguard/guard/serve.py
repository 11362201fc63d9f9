"""Serves guard bundles over HTTP, like `mmguard serve`. Importing this module does not need the extra `serve`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmguard.guard.policy import Policy
from mmguard.guard.serving.options import ServerOptions


def serve(
    bundles: str | Path | Sequence[str | Path],
    options: ServerOptions | None = None,
    *,
    policy: Policy | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    on_ready: Callable[[str, str], None] | None = None,
) -> None:
    """Serve bundles with the Open Inference Protocol v2 until SIGTERM or Ctrl-C; requests in flight are still answered.

    Args:
        bundles: path of a guard bundle, or paths of several guard bundles with different names.
        options: the address and ports to listen on, and limits on requests; None uses the defaults.
        policy: what to do with flagged and untested inputs; see `Guard`.
        providers: execution providers in order of preference; see `Guard`.
        threads: number of intra-op threads of each network; see `Guard`.
        on_ready: function to call with the protocol's URL and the metrics' URL once both ports are bound; None calls
            nothing.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ServeError: a port is taken, `bundles` is empty, or two bundles have the same name.
        BundleError: a bundle cannot be read.
        ProviderError: an execution provider is not available.
    """
    from mmguard.guard.serving.server import serve as run  # imported here because it needs the extra `serve`

    if isinstance(bundles, (str, Path)):
        bundles = [bundles]
    run(bundles, options, policy=policy, providers=providers, threads=threads, on_ready=on_ready)
