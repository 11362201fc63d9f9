"""The guard: both networks on every batch, the MMDF test, the policy, the counters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from prometheus_client import REGISTRY, CollectorRegistry

from mmguard.bundle.bundle import Bundle
from mmguard.errors import CopyError, InferenceError, InputError, LateError, OptionError, OverloadError
from mmguard.guard.answer import own_copy
from mmguard.guard.failures import failed
from mmguard.guard.forks import COUNTING
from mmguard.guard.interface import check_logits
from mmguard.guard.judge import Judge
from mmguard.guard.lanes import Run
from mmguard.guard.metrics import Metrics
from mmguard.guard.opening import open_networks
from mmguard.guard.policy import Policy
from mmguard.guard.sessions import PROVIDERS, NetworkOutput
from mmguard.inputs.checks import check_batch, check_form, rows_not_finite
from mmguard.types import BoolArray, Decision

Batch = npt.NDArray[Any]


@dataclass(frozen=True)
class GuardedBatch:
    """A judged batch.

    Attributes:
        decision: what the guard says of each input.
        outputs: the model's own outputs with the policy applied, by name; see `mmguard.guard.answer`.
    """

    decision: Decision
    outputs: dict[str, Any]

    @property
    def output(self) -> Any:
        """The first of them."""
        return next(iter(self.outputs.values()))


class Guard:
    """Runs a bundle's two networks side by side and tests every input. Safe to call from many threads.

    A bundle without a test (MMOM) flags nothing; its clipped network answers, except in shadow mode.

    Args:
        bundle: path of a guard bundle, or one that is open.
        providers: ONNX Runtime's execution providers, the wanted one first; None is the CPU. The guard never falls
            back from the first in silence.
        policy: what to do with a flag and with a failure.
        registry: where the counters go; None keeps them out of the default registry and in one of their own.
        threads: intra-op threads of each session; None is half of the cores.

    Raises:
        BundleError: no bundle there, a schema that is unknown, a file that was changed, or networks that are not of the
            manifest's names, dtypes and widths.
        ProviderError: the provider cannot be had.
        OptionError: the policy is not a `Policy`.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        providers: Sequence[str] | None = None,
        policy: Policy | None = None,
        registry: CollectorRegistry | None = REGISTRY,
        threads: int | None = None,
    ) -> None:
        self.policy = policy or Policy()
        if not isinstance(self.policy, Policy):
            raise OptionError(f"policy must be a mmguard.Policy, such as Policy(on_flag='abstain'), got {policy!r}")
        self.bundle, self.networks = open_networks(bundle, providers or PROVIDERS["cpu"], threads)
        with COUNTING:
            self._metrics = Metrics(registry or CollectorRegistry(), self.bundle)
        self._judge = Judge(self.bundle.manifest, self.policy, self._metrics, self.networks.head)

    def __call__(self, x: Batch) -> Decision:
        """Judge a batch, row by row.

        Args:
            x: (N, ...) of the model's own dtype, already preprocessed.

        Raises:
            InputError: wrong type, dtype or shape; or rows that are not finite, and the policy is to raise.
            InferenceError: the original failed; or the clipped network did, if only in some rows, and the policy is to
                raise.
            OverloadError: too many batches are in flight, unless in shadow mode.
        """
        return self.infer(x).decision

    def infer(self, x: Batch, original: Callable[[Batch], NetworkOutput] | None = None) -> GuardedBatch:
        """Judge a batch and give the model's own output too.

        Args:
            x: (N, ...) of the model's own dtype, already preprocessed.
            original: what answers for the original network, such as a wrapped predictor; None is the bundle's own. It
                is given a copy of `x` and may write to it, and may use the memory of its outputs again.

        Raises:
            InputError, InferenceError, OverloadError: as when called.
            Exception: what `original` raised.
        """
        self._open_in_this_process()
        not_finite = self._check(x)
        run = self._start(_for_clipped(x, not_finite, shared=original is None))
        start = perf_counter()
        try:
            answer = self._answer(x, original)
        except Exception:  # a wrapped predictor raises what it likes
            if isinstance(run, Run):
                self.networks.lanes.drop(run)
            self._metrics.count_error("inference")
            raise
        seconds = perf_counter() - start
        self._metrics.took("original", seconds)
        return GuardedBatch(*self._judge(answer, self._result(run, seconds), not_finite))

    def count_error(self, kind: str) -> None:
        """Count a failure beside the guard's own, by a kind of `mmguard_errors_total`."""
        self._metrics.count_error(kind)

    def close(self) -> None:
        """Stop the worker threads."""
        self.networks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise CopyError(
            "a guard holds open sessions and threads, which cannot be copied or pickled; hand on the bundle's path and "
            f"open a guard where it is used: mmguard.Guard({str(self.bundle.path)!r})"
        )

    def _open_in_this_process(self) -> None:
        try:
            self.networks.ready()
        except Exception:
            self._metrics.count_error("inference")
            raise

    def _check(self, x: Batch) -> BoolArray | None:
        """Rows (N,) of a batch that are not finite, None if there are none.

        Raises:
            InputError: as when called.
        """
        spec = self.bundle.manifest.input
        try:
            if self.policy.when_untested == "raise":
                check_batch(x, spec)
                return None
            check_form(x, spec)
        except InputError:
            self._metrics.count_error("input")
            raise
        return None if np.isfinite(x).all() else rows_not_finite(x)

    def _start(self, x: Batch) -> Run | InferenceError:
        try:
            return self.networks.lanes.start(partial(self._run_clipped, x))
        except LateError as error:
            return error
        except OverloadError as error:
            if self.policy.mode == "shadow":
                return error
            self._metrics.count_error("overload")
            raise

    def _run_clipped(self, x: Batch) -> NetworkOutput:
        start = perf_counter()
        output = self.networks.clipped(x)
        self._metrics.took("clipped", perf_counter() - start)
        return output

    def _answer(self, x: Batch, original: Callable[[Batch], NetworkOutput] | None) -> NetworkOutput:
        """What the original network says."""
        if original is None:
            return self.networks.original(x)
        answer = original(x.copy(order="K"))
        logits = check_logits(answer.logits, len(x), len(self.bundle.manifest.classes))
        return NetworkOutput(own_copy(answer.outputs), logits.copy())

    def _result(self, run: Run | InferenceError, seconds: float) -> NetworkOutput | InferenceError:
        """What the clipped network says, or why it says nothing; `seconds` is what the original took."""
        if isinstance(run, InferenceError):
            return run
        try:
            output: NetworkOutput = self.networks.lanes.result(run, self.policy.timeout, seconds)
        except Exception as error:
            return failed("the clipped network", error)
        return output


def _for_clipped(x: Batch, not_finite: BoolArray | None, shared: bool) -> Batch:
    """A batch that nobody writes to while the clipped network reads it.

    Rows that are not finite are zeros there: where a network quantises by the range of its batch, they would change the
    others.
    """
    if shared and not_finite is None:
        return x
    own = np.array(x, order="C")
    if not_finite is not None:
        own[not_finite] = 0
    return own
