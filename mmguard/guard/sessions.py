"""The two networks of a bundle as ONNX Runtime sessions, run side by side."""

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import InferenceError, ModelError, OptionError, ProviderError, TamperedBundleError
from mmguard.guard.answer import Head
from mmguard.guard.forks import abandon, watch
from mmguard.guard.interface import check_logits, check_session
from mmguard.guard.lanes import Lanes
from mmguard.runtime.batches import run_session
from mmguard.runtime.session import new_session

logger = logging.getLogger(__name__)

ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""All that ONNX Runtime raises; they share no base. `EPFail`, where a device fails, is one of them."""
PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}
"""Execution providers by device. ONNX Runtime always keeps the CPU for nodes that shape tensors need."""

PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""TF32 keeps 10 bits of a product: enough to move a margin gap across the level of the test."""

Array = npt.NDArray[Any]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NetworkOutput:
    """What one network gives for a batch of N.

    Attributes:
        outputs: the user's own, by name: arrays (N, ...), or a list of N where the model gives a sequence.
        logits: (N, K) float32; a row may be NaN or infinite, which no test can judge.
    """

    outputs: dict[str, Any]
    logits: Logits

    @property
    def output(self) -> Any:
        """The first of the outputs."""
        return next(iter(self.outputs.values()))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Intra-op threads of each of the two sessions: half of the cores that this process may use."""
    return max(1, cores() // 2) if hasattr(os, "sched_getaffinity") else 1


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
            "driver, and onnxruntime-gpu with CUDA and cuDNN (mmguard's extra cuda brings them); or ask for the CPU"
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


class GraphSession:
    """A session of one of a bundle's runtime_graphs.

    A forked process opens it again on first use, since ONNX Runtime's threads do not survive a fork.
    """

    def __init__(self, bundle: Bundle, form: str, providers: Sequence[str], threads: int) -> None:
        self._bundle = replace(bundle, path=bundle.path.absolute())
        self._form, self._providers, self._threads = form, providers, threads
        self._opening = threading.Lock()
        self._session: ort.InferenceSession | None = self._open()
        watch(self)

    def get(self) -> ort.InferenceSession:
        """The session of this process.

        Raises:
            BundleError: the bundle is not what it was when the parent process opened it.
            ProviderError: the provider cannot be had here, as CUDA cannot be where the parent process used it.
        """
        if (session := self._session) is not None:
            return session
        with self._opening:
            if self._session is None:
                self._session = self._open_again()
            return self._session

    def begin_anew(self) -> None:
        """Forget the parent's session."""
        if self._session is not None:
            abandon(self._session)
        self._session, self._opening = None, threading.Lock()

    def _open(self) -> ort.InferenceSession:
        session = open_session(self._bundle.runtime_graph(self._form), self._providers, self._threads)
        return check_session(session, self._bundle.manifest, self._form)

    def _open_again(self) -> ort.InferenceSession:
        found = Bundle.open(self._bundle.path)
        if found.sha256 != self._bundle.sha256:
            raise TamperedBundleError(
                f"{self._bundle.path} was replaced after the parent of this process opened it; start the parent again, "
                "or open the guard in this process"
            )
        try:
            session = self._open()
        except ProviderError as error:
            raise ProviderError(
                f"{error}. This process was forked; a device that its parent uses cannot be used here too: open the "
                "guard in this process"
            ) from error
        found.require_in_place()  # else its files may have been read after another took its place
        return session


class Network:
    """One session that gives the user's own outputs and the logits."""

    def __init__(self, session: GraphSession, output: OutputSpec, classes: int) -> None:
        self._session = session
        self._output, self._classes = output, classes

    @property
    def session(self) -> ort.InferenceSession:
        """The session of this process."""
        return self._session.get()

    def __call__(self, x: Array) -> NetworkOutput:
        """Run a batch (N, ...), of the dtype that the model takes.

        Raises:
            InferenceError: the run failed, or the logits are not (N, K) float32.
        """
        names = list(dict.fromkeys((*self._output.names, self._output.logits)))
        found = dict(zip(names, run(self.session, names, x), strict=True))
        logits = check_logits(found[self._output.logits], len(x), self._classes)
        return NetworkOutput({name: found[name] for name in self._output.names}, logits)


def run(session: ort.InferenceSession, names: Sequence[str], x: Array) -> list[Any]:
    """Run a session on a batch (N, ...) of any size.

    Raises:
        InferenceError: the run failed.
    """
    try:
        return run_session(session, names, x)
    except Exception as error:  # its own errors share no base, and it raises MemoryError and RuntimeError too
        raise InferenceError(f"ONNX Runtime failed on a batch of shape {x.shape}: {error}") from error


class NetworkPair:
    """The original and the clipped network of a bundle, and the head that makes the derived outputs of logits.

    The clipped network runs on a worker thread while the caller's thread runs the original, so that an idle core, or
    on CUDA a second stream, hides it. Safe to call from many threads.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[str], threads: int | None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, got {threads}")
        threads = threads or default_threads()
        manifest = bundle.manifest
        self.providers = tuple(providers)
        self._sessions = {form: GraphSession(bundle, form, providers, threads) for form in ("original", "clipped")}
        self.original, self.clipped = (
            Network(session, manifest.output, len(manifest.classes)) for session in self._sessions.values()
        )
        self.head: Head | None = None
        if manifest.output.derived:  # of a few rows: always on one thread of the CPU
            session = self._sessions["head"] = GraphSession(bundle, "head", PROVIDERS["cpu"], 1)
            self.head = lambda logits: run(session.get(), manifest.output.derived, logits)
        self.lanes = Lanes(max(2, cores()))
        watch(self)

    def close(self) -> None:
        """Let the worker threads end once what they run is done."""
        self.lanes.close()

    def ready(self) -> None:
        """Open what a forked process has not opened yet, so that its first batch is not late.

        Raises:
            BundleError, ProviderError: it cannot be opened here.
        """
        for session in self._sessions.values():
            session.get()

    def begin_anew(self) -> None:
        """Leave the parent's threads, and what waits for them, behind."""
        closed, self.lanes = self.lanes.closed, Lanes(max(2, cores()))
        if closed:
            self.close()
