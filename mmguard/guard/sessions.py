"""ONNX Runtime sessions of a bundle's runtime graphs."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import ACTIVATIONS, OutputSpec
from mmguard.errors import InferenceError, ModelError, ProviderError, TamperedBundleError
from mmguard.guard.forks import abandon, watch
from mmguard.guard.interface import check_session
from mmguard.runtime.batches import run_session
from mmguard.runtime.session import ORT_ERRORS, new_session

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}
"""Execution providers by device. Even with CUDA, ONNX Runtime runs the nodes that compute shapes on the CPU."""
PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""TF32 is off, because its 10-bit mantissa is coarse enough to change whether an input is flagged."""

Array = npt.NDArray[Any]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NetworkOutput:
    """What one network returns for a batch of N inputs.

    Attributes:
        outputs: the model's own outputs, by name: arrays (N, ...), or a list of N maps if the model returns a sequence.
        logits: (N, K) float32; rows that contain NaN or infinity cannot be tested.
        activations: (N, S + 1) float32, what the test reads of the original network's activations
            (`mmguard.detection.evidence`); None for the clipped network, and for a bundle without this evidence.
    """

    outputs: dict[str, Any]
    logits: Logits
    activations: Logits | None = None

    @property
    def output(self) -> Any:
        """The first output."""
        return next(iter(self.outputs.values()))


def open_session(path: Path, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    """Open a session, and make sure that it runs on the first of the requested providers.

    Args:
        path: path of an ONNX file.
        providers: ONNX Runtime execution providers in order of preference.
        threads: number of intra-op threads.

    Returns:
        The session.

    Raises:
        ProviderError: the first provider is not available. ONNX Runtime itself would only log a warning and use another
            provider.
        ModelError: ONNX Runtime cannot load the file.
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
    except UnicodeDecodeError as error:  # ONNX Runtime's message quotes bytes of a damaged file
        raise ModelError(f"ONNX Runtime cannot load {path}, and its error message is not readable text") from error
    except ValueError as error:
        available = ", ".join(ort.get_available_providers())
        raise ProviderError(f"{error}; the available providers are {available}") from error
    except ORT_ERRORS as error:
        raise ModelError(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != providers[0]:
        raise ProviderError(
            f"{providers[0]} is not available: ONNX Runtime fell back to {', '.join(session.get_providers())}. To "
            "use a GPU, install its driver and mmguard's extra `cuda`, which installs onnxruntime-gpu, CUDA and cuDNN; "
            "otherwise, use the CPU"
        )
    return session


def _refuse_two_runtimes() -> None:
    """Check that onnxruntime and onnxruntime-gpu are not both installed, as they overwrite each other's files."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if len(installed) > 1:
        raise ProviderError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; "
            "run `pip uninstall onnxruntime onnxruntime-gpu`, then reinstall the one you need"
        )


class GraphSession:
    """The session of one runtime graph.

    ONNX Runtime's threads do not survive a fork, so a forked process reopens the session on first use.

    Args:
        bundle: an open bundle.
        form: key of `runtime_graphs`: `original`, `clipped` or `head`.
        providers: ONNX Runtime execution providers in order of preference.
        threads: number of intra-op threads.

    Raises:
        TamperedBundleError: the graph does not match the manifest.
        ModelError: ONNX Runtime cannot load the graph.
        ProviderError: the first provider is not available.
    """

    def __init__(self, bundle: Bundle, form: str, providers: Sequence[str], threads: int) -> None:
        self._bundle = replace(bundle, path=bundle.path.absolute())
        self._form, self._providers, self._threads = form, providers, threads
        self._opening = threading.Lock()
        self._session: ort.InferenceSession | None = self._open()
        watch(self)

    def get(self) -> ort.InferenceSession:
        """Return this process's session. The first call in a forked process reopens the session.

        Raises:
            BundleError: the bundle differs from the bundle that the parent process opened.
            ProviderError: the first provider is not available in this process. In particular, a forked process cannot
                use CUDA if its parent has used it.
        """
        if (session := self._session) is not None:
            return session
        with self._opening:
            if self._session is None:
                self._session = self._reopen()
            return self._session

    def reset_after_fork(self) -> None:
        """Discard the parent process's session."""
        if self._session is not None:
            abandon(self._session)
        self._session, self._opening = None, threading.Lock()

    def _open(self) -> ort.InferenceSession:
        session = open_session(self._bundle.runtime_graph(self._form), self._providers, self._threads)
        check_session(session, self._bundle.manifest, self._form)
        return session

    def _reopen(self) -> ort.InferenceSession:
        found = Bundle.open(self._bundle.path)
        if found.sha256 != self._bundle.sha256:
            raise TamperedBundleError(
                f"{self._bundle.path} was replaced after the parent process opened it; restart the parent process, or "
                "open the guard in this process"
            )
        try:
            session = self._open()
        except ProviderError as error:
            raise ProviderError(
                f"{error}. This process was forked, so it cannot use a GPU that its parent has used; open the guard in "
                "this process instead"
            ) from error
        found.require_in_place()  # if the bundle was replaced, the session may have read another bundle's files
        return session


class Network:
    """One of the two networks. A call returns the model's own outputs and the logits.

    Args:
        session: session of the original or the clipped runtime graph.
        output: the manifest's description of the outputs.
        classes: number of classes K.
        columns: number of columns of what the session also returns of its activations; 0 for nothing.
    """

    def __init__(self, session: GraphSession, output: OutputSpec, classes: int, columns: int = 0) -> None:
        self._session = session
        self._output, self._classes, self._columns = output, classes, columns
        self._names = list(dict.fromkeys((*output.names, output.logits, *([ACTIVATIONS] if columns else ()))))

    @property
    def session(self) -> ort.InferenceSession:
        """The session of this process."""
        return self._session.get()

    def __call__(self, x: Array) -> NetworkOutput:
        """Run the network on a batch.

        Args:
            x: inputs, (N, ...), with the model's input dtype.

        Returns:
            The outputs and the logits.

        Raises:
            InferenceError: ONNX Runtime failed, or the logits are not (N, K) float32.
        """
        found = dict(zip(self._names, run(self.session, self._names, x), strict=True))
        logits = check_rows("logits", found[self._output.logits], len(x), self._classes)
        activations = None
        if self._columns:
            activations = check_rows("activations", found[ACTIVATIONS], len(x), self._columns)
        return NetworkOutput({name: found[name] for name in self._output.names}, logits, activations)


def run(session: ort.InferenceSession, names: Sequence[str], x: Array) -> list[Any]:
    """Run a session on a batch of any size.

    Args:
        session: the session.
        names: names of the outputs to return.
        x: inputs, (N, ...), with the session's input dtype.

    Returns:
        The outputs, in the order of `names`.

    Raises:
        InferenceError: ONNX Runtime failed.
    """
    try:
        return run_session(session, names, x)
    except Exception as error:  # ONNX Runtime's errors share no base class; MemoryError and RuntimeError occur too
        raise InferenceError(f"ONNX Runtime failed on a batch of shape {x.shape}: {error}") from error


def check_rows(what: str, values: Any, n: int, width: int) -> Logits:
    """Check the shape and dtype of an output, because the output shapes that a session declares may be wrong.

    Args:
        what: what the output contains, such as `logits`.
        values: the output.
        n: number of inputs N.
        width: number of values for each input.

    Returns:
        The same output, (N, width) float32.

    Raises:
        InferenceError: the output has a different shape or dtype.
    """
    if not isinstance(values, np.ndarray) or values.shape != (n, width) or values.dtype != np.float32:
        got = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        expected = f"float32 {what} of shape {(n, width)} for {n} inputs"
        raise InferenceError(f"expected {expected}, got {got}; use a model that returns one row for each input")
    return values
