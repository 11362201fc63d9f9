"""The two networks of a bundle as ONNX Runtime sessions, run side by side."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from mmguard.batching import run_session
from mmguard.bundle import Bundle
from mmguard.errors import InferenceError, ModelError, OptionError, ProviderError
from mmguard.guard.answer import Tail
from mmguard.guard.interface import check_logits, check_network, check_tail
from mmguard.manifest import OutputSpec
from mmguard.runtime import new_session

logger = logging.getLogger(__name__)

ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""All that ONNX Runtime raises; they share no base. `EPFail`, where a device fails, is one of them."""
PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}
"""Execution providers by device. ONNX Runtime always keeps the CPU for nodes that shape tensors need."""

MAX_PENDING = 64
"""Batches that may be in flight. A hung network thus holds a bounded number of them, and no later one waits for it."""

PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""TF32 keeps 10 bits of a product: enough to move a margin gap across the level of the test."""

Array = npt.NDArray[Any]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NetworkOutput:
    """What one network gives for a batch of N.

    Attributes:
        outputs: the user's own, by name: arrays (N, ...), or a list of N where the model gives a sequence.
        logits: (N, K) float32.
    """

    outputs: dict[str, Any]
    logits: Logits

    @property
    def output(self) -> Any:
        """The first of the outputs."""
        return next(iter(self.outputs.values()))


def default_threads() -> int:
    """Intra-op threads of each of the two sessions: half of the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else 1


def open_session(path: Path, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    """Open a session on exactly the provider that was asked for.

    Args:
        path: ONNX file.
        providers: ONNX Runtime's provider names, the wanted one first.
        threads: intra-op threads.

    Raises:
        ProviderError: the first provider cannot be had. ONNX Runtime itself would fall back with a log line.
        ModelError: the file cannot be loaded.
    """
    _refuse_two_runtimes()
    if providers[0] == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = new_session(path, options, [(name, PROVIDER_OPTIONS.get(name, {})) for name in providers])
    except UnicodeDecodeError as error:  # a damaged file's text in ONNX Runtime's own message
        raise ModelError(f"ONNX Runtime cannot load {path}, and says why in no readable text") from error
    except ValueError as error:
        raise ProviderError(f"{error}; this onnxruntime has {ort.get_available_providers()}") from error
    except ORT_ERRORS as error:
        raise ModelError(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != providers[0]:
        raise ProviderError(
            f"{providers[0]} was asked for, ONNX Runtime gives {session.get_providers()}: it needs a GPU with its "
            "driver, and onnxruntime-gpu with CUDA and cuDNN (`pip install mmguard[cuda]`); or ask for the CPU"
        )
    return session


def _refuse_two_runtimes() -> None:
    """onnxruntime and onnxruntime-gpu overwrite each other's files when both are installed."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if len(installed) > 1:
        raise ProviderError(
            f"{' and '.join(installed)} are both installed and break each other; "
            "run `pip uninstall onnxruntime onnxruntime-gpu` and install the one you need again"
        )


class Network:
    """One session that gives the user's own outputs and the logits."""

    def __init__(self, session: ort.InferenceSession, output: OutputSpec, classes: int) -> None:
        self.session = session
        self._output, self._classes = output, classes

    def __call__(self, x: Array) -> NetworkOutput:
        """Run a batch (N, ...), of the dtype that the model takes.

        Raises:
            InferenceError: the run failed, or the logits are not (N, K) finite numbers.
        """
        names = list(dict.fromkeys((*self._output.names, self._output.logits)))
        found = dict(zip(names, run(self.session, names, x), strict=True))
        logits = check_finite(check_logits(found[self._output.logits], len(x), self._classes))
        return NetworkOutput({name: found[name] for name in self._output.names}, logits)


def run(session: ort.InferenceSession, names: Sequence[str], x: Array) -> list[Any]:
    """Run a session on a batch (N, ...) of any size.

    Raises:
        InferenceError: the run failed.
    """
    try:
        return run_session(session, names, x)
    except ORT_ERRORS as error:
        raise InferenceError(f"ONNX Runtime failed on a batch of shape {x.shape}: {error}") from error


def check_finite(logits: Logits) -> Logits:
    """Pass finite logits on.

    Raises:
        InferenceError: some are NaN or infinite, which no test could judge.
    """
    if not np.isfinite(logits).all():
        raise InferenceError("the network gave logits that are NaN or infinite")
    return logits


def _open_tail(bundle: Bundle) -> Tail | None:
    """What computes the derived outputs of a few rows: always on one thread of the CPU."""
    manifest = bundle.manifest
    if not manifest.output.derived:
        return None
    session = check_tail(open_session(bundle.plan("tail"), PROVIDERS["cpu"], 1), manifest)
    return lambda logits: run(session, manifest.output.derived, logits)


class NetworkPair:
    """The original and the clipped network of a bundle, and the tail that makes the derived outputs of logits.

    The clipped network runs on a worker thread while the caller's thread runs the original, so that an idle core, or
    on CUDA a second stream, hides it. Safe to call from many threads.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[str], threads: int | None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, got {threads}")
        threads = threads or default_threads()
        manifest = bundle.manifest
        self.providers = tuple(providers)
        self.original, self.clipped = (
            Network(
                check_network(open_session(bundle.plan(form), providers, threads), manifest, form),
                *(manifest.output, len(manifest.classes)),
            )
            for form in ("original", "clipped")
        )
        self.tail = _open_tail(bundle)
        self._pool = ThreadPoolExecutor(max_workers=MAX_PENDING, thread_name_prefix="mmguard")
        self._slots = threading.BoundedSemaphore(MAX_PENDING)

    def submit(self, network: Callable[[Array], NetworkOutput], x: Array) -> "Future[NetworkOutput]":
        """Start a network on a batch, on a worker thread. Nothing queues: each batch in flight has its thread.

        Returns:
            The future output; an `InferenceError` at once where 64 batches are not done, as when a network hangs.

        Raises:
            InferenceError: the guard is closed.
        """
        if not self._slots.acquire(blocking=False):
            saturated: Future[NetworkOutput] = Future()
            saturated.set_exception(InferenceError(f"{MAX_PENDING} batches are not done yet"))
            return saturated
        try:
            future = self._pool.submit(network, x)
        except RuntimeError as error:
            self._slots.release()
            raise InferenceError("the guard is closed") from error
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def close(self) -> None:
        """Let the worker threads end once what they run is done."""
        self._pool.shutdown(wait=False)
