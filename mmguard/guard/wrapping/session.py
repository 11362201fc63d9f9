"""An ONNX Runtime session with a guard in front."""

import logging
import os
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
from mmguard.guard.wrapping import recovery
from mmguard.guard.wrapping.answers import probed
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.original import OnDecision, Outputs, WrappedOriginal, refuse_another_model
from mmguard.guard.wrapping.tensors import as_batch
from mmguard.runtime.batches import run_session

logger = logging.getLogger(__name__)

OnResults = Callable[[list[Any], Any, str], None]
"""Called with the outputs, the caller's own data, and what failed, else an empty string."""

BINDING = "it binds memory that the guard does not see; use run, run_with_ort_values or run_async"
SETTING = "change the session before you wrap it, since its answers are compared with the bundle's then"


class GuardedSession(Face):
    """An `onnxruntime.InferenceSession` with a guard in front; it is no instance of that class.

    `run`, `run_async` and `run_with_ort_values` are guarded, and take and give what the session's own do. What tells of
    the session is handed through; all else is refused: IO binding, changes of the session, and what a later version of
    ONNX Runtime may add. An exception of the session's own reaches the caller. In a forked process ONNX Runtime's
    threads are gone, so there a call raises instead of waiting for them.
    """

    handed_through = frozenset(
        {
            *("get_inputs", "get_outputs", "get_overridable_initializers", "get_modelmeta", "get_session_options"),
            *("get_input_memory_infos", "get_output_memory_infos", "get_input_epdevices"),
            *("get_providers", "get_provider_options", "get_provider_graph_assignment_info", "get_tuning_results"),
            *("get_profiling_start_time_ns", "end_profiling", "enable_fallback", "disable_fallback"),
            "create_ortvalue_from_shape_and_type",
        }
    )
    instead = dict.fromkeys(("io_binding", "run_with_iobinding", "run_with_ortvaluevector"), BINDING) | dict.fromkeys(
        ("set_providers", "set_ep_dynamic_options", "set_tuning_results"), SETTING
    )

    def __init__(
        self, session: ort.InferenceSession, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]
    ) -> None:
        self._spec = bundle.manifest
        _refuse_other_names(session, bundle)
        found = probed(bundle, lambda x: self._ask(session, None, x))
        super().__init__(session, Guard(bundle, **options))
        refuse_another_model(bundle, found, self.guard.networks.original(bundle.probes().x).outputs)
        self._wrapped = WrappedOriginal(self.guard, on_decision)
        self._recovery = recovery.of_outputs(bundle, found)
        self._process = os.getpid()
        self._workers = ThreadPoolExecutor(thread_name_prefix="mmguard-async")

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """As `InferenceSession.run`: the outputs asked for, with the guard's policy applied.

        Args:
            output_names: None or none for all. input_feed: the one input, an array, a list or an `OrtValue`.
            run_options: passed to the session's run; the clipped network runs without.

        Raises:
            InputError: a feed or an output name that the model does not have, or an input it does not take.
            InferenceError: the networks could not answer, or the session was wrapped in another process.
        """
        return self._answer(self._names(output_names), self._fed(input_feed), run_options)

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """As `InferenceSession.run_with_ort_values`; the values pass through the memory of the CPU.

        Raises:
            InputError, InferenceError: as `run` raises them, and for an output that is no tensor of numbers.
        """
        names = self._names(output_names)
        for node in self.get_outputs():
            if node.name in names and (not node.type.startswith("tensor(") or node.type == "tensor(string)"):
                raise InputError(
                    f"output {node.name!r} is {node.type}, of which ONNX Runtime makes no OrtValue; use run"
                )
        outputs = self._answer(names, self._fed(input_dict_ort_values), run_options)
        return [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(output)) for output in outputs]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: OnResults,
        user_data: Any,
        run_options: Any = None,
    ) -> None:
        """As `InferenceSession.run_async`: calls back on another thread, with no outputs and a text where it failed.

        Raises:
            InputError: a feed or an output name that the model does not have.
        """
        names, x = self._names(output_names), self._fed(input_feed)
        x = x.copy() if isinstance(x, np.ndarray) else x  # the caller may go on to write to it
        self._workers.submit(self._call_back, names, x, callback, user_data, run_options)

    def _call_back(self, names: Sequence[str], x: Batch, callback: OnResults, user_data: Any, run_options: Any) -> None:
        results, failure = list[Any](), ""
        try:
            results = self._answer(names, x, run_options)
        except Exception as error:
            failure = str(error) or type(error).__name__
        try:
            callback(results, user_data, failure)
        except Exception:
            logger.exception("the callback of run_async failed")

    def _answer(self, names: Sequence[str], x: Batch, run_options: Any) -> list[Any]:
        outputs = self._wrapped.infer(x, partial(self._ask, self._predictor, run_options), self._recovery).outputs
        return [outputs[name] for name in names]

    def _ask(self, session: ort.InferenceSession, run_options: Any, x: Batch) -> Outputs:
        given = SimpleNamespace(get_inputs=session.get_inputs, run=partial(session.run, run_options=run_options))
        names = self._spec.output.names
        return dict(zip(names, run_session(given, names, x), strict=True))

    def _names(self, output_names: Sequence[str] | None) -> list[str]:
        known = self._spec.output.names
        names = list(output_names or known)
        if not set(names) <= set(known):
            raise InputError(f"the model's outputs are {', '.join(map(repr, known))}, got {names}")
        return names

    def _fed(self, input_feed: Mapping[str, Any]) -> Batch:
        """The one input as an array; the guard itself checks what is in it."""
        if os.getpid() != self._process:
            raise InferenceError(
                "the session was wrapped before this process was forked, and its threads are not here; open the "
                "session and wrap it in each worker (of gunicorn: without --preload)"
            )
        if set(input_feed) != {self._spec.input.name}:
            raise InputError(f"expected the one input {self._spec.input.name!r}, got {sorted(input_feed)}")
        value = input_feed[self._spec.input.name]
        if isinstance(value, ort.OrtValue):
            value = value.numpy()
        if isinstance(value, (list, tuple)):
            value = as_batch(value, self._spec.input.dtype)
        return value  # type: ignore[no-any-return]


def _refuse_other_names(session: ort.InferenceSession, bundle: Bundle) -> None:
    spec = bundle.manifest
    for what, nodes, expected in (
        ("inputs", session.get_inputs(), (spec.input.name,)),
        ("outputs", session.get_outputs(), spec.output.names),
    ):
        names = tuple(node.name for node in nodes)
        if names != expected:
            raise PredictorMismatchError(
                f"the session's {what} are {', '.join(names)}, those of the model of {bundle.path} are "
                f"{', '.join(expected)}; wrap a session of that model, or calibrate a bundle from this one"
            )
