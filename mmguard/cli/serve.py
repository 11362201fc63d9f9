"""`mmguard serve`: serve bundles over HTTP."""

from pathlib import Path

from mmguard.cli.app import DONE, Device, app
from mmguard.detection.screen import DEFAULT_SHARE
from mmguard.errors import OptionError
from mmguard.guard import Policy
from mmguard.guard.policy import Mode, OnError, OnFlag
from mmguard.guard.serve import serve as run_server
from mmguard.guard.serving.options import MAX_JSON_BYTES, MAX_REQUEST_BYTES, RequestLimits, ServerOptions
from mmguard.guard.sessions import PROVIDERS


@app.command
def serve(
    *bundles: Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    metrics_port: int = 9464,
    mode: Mode = "enforce",
    on_flag: OnFlag = "correct",
    min_confidence: float = 0.0,
    screen: float = DEFAULT_SHARE,
    on_error: OnError = "raise",
    timeout: float | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    max_request_mib: int = MAX_REQUEST_BYTES // 2**20,
    max_json_mib: int = MAX_JSON_BYTES // 2**20,
) -> int:
    """Serve bundles over HTTP with the Open Inference Protocol v2. Metrics are at /metrics, on a separate port.

    Parameters
    ----------
    bundles
        Folders of guard bundles. Each bundle is served as a model under the bundle's name.
    host
        Address to listen on.
    port
        Port of the inference protocol.
    metrics_port
        Port of /metrics.
    mode
        enforce: apply the policy. shadow: return the original network's answers and only count flags.
    on_flag
        What to do with the label of a flagged input.
    min_confidence
        Smallest confidence, from 0 to 1, with which a corrected label is returned; below it, the guard abstains.
    screen
        Share of clean inputs, from 0 to 1, on which the clipped network may run. It runs only on inputs that look
        unusual in the original network. With 0 or 1, it runs on every input; a share below θ counts as θ.
    on_error
        What to do if the clipped network fails or times out: raise an error (raise), return the original
        network's answer (open) or abstain (closed).
    timeout
        Seconds to wait for the clipped network after the original network has answered.
    device
        Device that the networks run on. cuda never falls back to the CPU.
    threads
        Intra-op threads of each network. By default, half of the CPU cores.
    max_request_mib
        Maximum size of a request body in MiB, before and after decompression. Larger bodies get status 413.
    max_json_mib
        Maximum size in MiB of the JSON in a request, not including binary tensors.
    """
    if not bundles:
        raise OptionError("mmguard serve needs at least one bundle; pass the path of a bundle's folder")
    policy = Policy(mode, on_flag, on_error, timeout, min_confidence, screen)
    limits = RequestLimits(max_request_mib * 2**20, max_json_mib * 2**20)
    options = ServerOptions(host, port, metrics_port, limits)
    run_server(bundles, options, policy=policy, providers=PROVIDERS[device], threads=threads)
    return DONE
