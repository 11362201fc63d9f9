"""A guarded ONNX Runtime session."""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from mmguard.bundle.bundle import Bundle
from mmguard.errors import InferenceError, InputError, PredictorMismatchError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.guard.wrapping.guarded_call import run_on_probes
from mmguard.guard.wrapping.logit_recovery import recovery_from_outputs
from mmguard.guard.wrapping.predictor_guard import OnDecision, Outputs, PredictorGuard, check_same_model
from mmguard.guard.wrapping.tensors import as_batch
from mmguard.runtime.batches import run_session

logger = logging.getLogger(__name__)

OnResults = Callable[[list[Any], Any, str], None]
"""Takes the outputs, the caller's `user_data`, and an error message that is empty on success."""

THREAD_NAMES = "mmguard-async"
BINDING = "IO binding uses memory that the guard cannot access; use run, run_with_ort_values or run_async"
SETTING = (
    "change the session before you wrap it, because wrap compares the session's outputs with the outputs of "
    "the bundle's model"
)


class GuardedSession(WrappedPredictor):
    """A guarded `onnxruntime.InferenceSession`. It is not an instance of that class.

    `run`, `run_async` and `run_with_ort_values` are guarded, and take and return the same types as the methods of the
    session. Attributes that describe the session are forwarded. Attributes for IO binding, attributes that change the
    session, and attributes that a later version of ONNX Runtime may add are not forwarded. Exceptions raised by the
    session are passed on to the caller. After a fork, ONNX Runtime's threads do not exist in the child process. A call
    in the child process therefore raises InferenceError instead of waiting for these threads forever.

    Args:
        session: the session.
        bundle: the guard bundle of the session's model.
        on_decision: called with the decision for each batch.
        options: options of `Guard`.
    """

    forwarded = frozenset(
        {
            *("get_inputs", "get_outputs", "get_overridable_initializers", "get_modelmeta", "get_session_options"),
            *("get_input_memory_infos", "get_output_memory_infos", "get_input_epdevices"),
            *("get_providers", "get_provider_options", "get_provider_graph_assignment_info", "get_tuning_results"),
            *("get_profiling_start_time_ns", "end_profiling", "enable_fallback", "disable_fallback"),
            "create_ortvalue_from_shape_and_type",
        }
    )
    alternatives = dict.fromkeys(
        ("io_binding", "run_with_iobinding", "run_with_ortvaluevector"), BINDING
    ) | dict.fromkeys(("set_providers", "set_ep_dynamic_options", "set_tuning_results"), SETTING)

    def __init__(
        self, session: ort.InferenceSession, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]
    ) -> None:
        self._spec = bundle.manifest
        _check_names(session, bundle)
        found = run_on_probes(bundle, lambda x: self._predict(session, None, x))
        super().__init__(session, Guard(bundle, **options))
        check_same_model(bundle, found, self.guard.networks.original(bundle.probes().x).outputs)
        self._predictor_guard = PredictorGuard(self.guard, on_decision)
        self._recovery = recovery_from_outputs(bundle, found)
        self._process = os.getpid()
        self._workers = ThreadPoolExecutor(thread_name_prefix=THREAD_NAMES)

    def close(self) -> None:
        """Wait for pending `run_async` calls, then close the guard.

        When called from a `run_async` callback, this method does not wait.
        """
        self._workers.shutdown(wait=not threading.current_thread().name.startswith(THREAD_NAMES))
        super().close()

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model like `InferenceSession.run`.

        Args:
            output_names: names of the outputs to return; None or an empty list means all outputs.
            input_feed: the only input, as a map from its name to an array, a list or an `OrtValue`.
            run_options: an `onnxruntime.RunOptions` for the session; not used for the clipped network.

        Returns:
            The outputs with the policy applied.

        Raises:
            InputError: An input or output name is unknown, or the model does not accept the input.
            InferenceError: A network failed, the guard is closed, or the session was wrapped in another process.
        """
        return self._run(self._names(output_names), self._input(input_feed), run_options)

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model like `InferenceSession.run_with_ort_values`. The values are copied to CPU memory.

        Args:
            output_names: names of the outputs to return; None or an empty list means all outputs.
            input_dict_ort_values: the only input, as a map from its name to an `OrtValue`.
            run_options: an `onnxruntime.RunOptions` for the session; not used for the clipped network.

        Returns:
            The outputs as `OrtValue` on the CPU, with the policy applied.

        Raises:
            InputError: An input or output name is unknown, the model does not accept the input, or an output is not a
                tensor of numbers.
            InferenceError: A network failed, the guard is closed, or the session was wrapped in another process.
        """
        names = self._names(output_names)
        for node in self.get_outputs():
            if node.name in names and (not node.type.startswith("tensor(") or node.type == "tensor(string)"):
                raise InputError(
                    f"ONNX Runtime cannot create an OrtValue for output {node.name!r} of type {node.type}; use run "
                    "instead"
                )
        outputs = self._run(names, self._input(input_dict_ort_values), run_options)
        return [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(output)) for output in outputs]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: OnResults,
        user_data: Any,
        run_options: Any = None,
    ) -> None:
        """Run the model like `InferenceSession.run_async`, and call the callback from another thread.

        Args:
            output_names: names of the outputs to return; None or an empty list means all outputs.
            input_feed: the only input, as a map from its name to an array, a list or an `OrtValue`.
            callback: called with the outputs, `user_data` and an error message. On success the error message is empty;
                on failure the list of outputs is empty.
            user_data: passed to the callback.
            run_options: an `onnxruntime.RunOptions` for the session; not used for the clipped network.

        Raises:
            InputError: An input or output name is unknown.
            InferenceError: The guard is closed, or the session was wrapped in another process.
        """
        names, x = self._names(output_names), self._input(input_feed)
        x = x.copy() if isinstance(x, np.ndarray) else x  # the caller may change the array after this call
        try:
            self._workers.submit(self._call_back, names, x, callback, user_data, run_options)
        except RuntimeError as error:  # the pool has been shut down
            raise InferenceError(f"the guard is closed: {error}") from error

    def _call_back(self, names: Sequence[str], x: Batch, callback: OnResults, user_data: Any, run_options: Any) -> None:
        results, failure = list[Any](), ""
        try:
            results = self._run(names, x, run_options)
        except Exception as error:
            failure = str(error) or type(error).__name__
        try:
            callback(results, user_data, failure)
        except Exception:
            logger.exception("the callback of run_async failed")

    def _run(self, names: Sequence[str], x: Batch, run_options: Any) -> list[Any]:
        predict = partial(self._predict, self._predictor, run_options)
        outputs = self._predictor_guard.infer(x, predict, self._recovery).outputs
        return [outputs[name] for name in names]

    def _predict(self, session: ort.InferenceSession, run_options: Any, x: Batch) -> Outputs:
        given = SimpleNamespace(get_inputs=session.get_inputs, run=partial(session.run, run_options=run_options))
        names = self._spec.output.names
        return dict(zip(names, run_session(given, names, x), strict=True))

    def _names(self, output_names: Sequence[str] | None) -> list[str]:
        known = self._spec.output.names
        names = list(output_names or known)
        if not set(names) <= set(known):
            raise InputError(f"expected output names among {', '.join(map(repr, known))}, got {names}")
        return names

    def _input(self, input_feed: Mapping[str, Any]) -> Batch:
        """Return the only input as an array. The guard will check the array's shape, dtype and values."""
        if os.getpid() != self._process:
            raise InferenceError(
                "this session was wrapped before the process was forked, so the threads of the session do not exist in "
                "this process; open and wrap a session in each worker process (with gunicorn, do not use --preload)"
            )
        if set(input_feed) != {self._spec.input.name}:
            raise InputError(f"expected exactly one input, {self._spec.input.name!r}, got {sorted(input_feed)}")
        value = input_feed[self._spec.input.name]
        if isinstance(value, ort.OrtValue):
            value = value.numpy()
        if isinstance(value, (list, tuple)):
            value = as_batch(value, self._spec.input.dtype)
        return value  # type: ignore[no-any-return]


def _check_names(session: ort.InferenceSession, bundle: Bundle) -> None:
    spec = bundle.manifest
    for what, nodes, expected in (
        ("inputs", session.get_inputs(), (spec.input.name,)),
        ("outputs", session.get_outputs(), spec.output.names),
    ):
        names = tuple(node.name for node in nodes)
        if names != expected:
            raise PredictorMismatchError(
                f"the session must have the same {what} as the model of {bundle.path}: expected {', '.join(expected)}, "
                f"got {', '.join(names)}; wrap a session of that model, or calibrate a bundle from the session's model"
            )
