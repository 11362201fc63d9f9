"""`mmguard serve`: serve bundles over HTTP."""

from pathlib import Path

from mmguard.cli.app import DONE, Device, app
from mmguard.errors import OptionError
from mmguard.guard import Policy
from mmguard.guard.policy import Mode, OnError, OnFlag
from mmguard.guard.serving.body import MAX_JSON_BYTES, MAX_REQUEST_BYTES
from mmguard.guard.sessions import PROVIDERS


@app.command
def serve(
    *bundles: Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    metrics_port: int = 9464,
    mode: Mode = "enforce",
    on_flag: OnFlag = "correct",
    on_error: OnError = "raise",
    timeout: float | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    max_request_mib: int = MAX_REQUEST_BYTES // 2**20,
    max_json_mib: int = MAX_JSON_BYTES // 2**20,
) -> int:
    """Serve bundles by the Open Inference Protocol v2 over HTTP, and their counters at /metrics on another port.

    Parameters
    ----------
    bundles
        Guard bundles; each is a model of its own name.
    host
        Address to listen on.
    port
        Port of the inference protocol.
    metrics_port
        Port of /metrics.
    mode
        Enforce the policy, or shadow: answer as the original and only count.
    on_flag
        What a flagged input's label becomes.
    on_error
        What to do when the clipped network fails or is late: raise, answer untested (open), abstain (closed).
    timeout
        Seconds to wait for the clipped network after the original.
    device
        Where the networks run; cuda never falls back to the CPU.
    threads
        Intra-op threads of each network; half of the cores by default.
    max_request_mib
        Largest body of a request in MiB, also decompressed; a larger one is answered 413.
    max_json_mib
        Largest JSON of a request in MiB; numbers sent as binary tensors are not part of it.
    """
    from mmguard.guard.serving.server import serve as run_server  # needs the extra `serve`

    if not bundles:
        raise OptionError("serve needs at least one bundle")
    policy = Policy(mode=mode, on_flag=on_flag, on_error=on_error, timeout=timeout)
    run_server(
        bundles,
        host,
        port,
        metrics_port,
        policy=policy,
        providers=PROVIDERS[device],
        threads=threads,
        max_request_bytes=max_request_mib * 2**20,
        max_json_bytes=max_json_mib * 2**20,
    )
    return DONE
