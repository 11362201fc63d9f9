"""The guard: both networks on every batch, the MMDF test, the policy, the counters."""

from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
from prometheus_client import REGISTRY, CollectorRegistry

from mmguard.bundle import Bundle
from mmguard.errors import InferenceError, InputError, OptionError
from mmguard.guard.answer import Logits, guarded_outputs
from mmguard.guard.decide import corrected_model, decide, untested
from mmguard.guard.metrics import Metrics
from mmguard.guard.opening import open_networks
from mmguard.guard.policy import Policy
from mmguard.guard.sessions import PROVIDERS, NetworkOutput
from mmguard.inputs import check_batch
from mmguard.types import Decision

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
        OptionError: the policy is none.
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
        null = self.bundle.manifest.null
        self._test = null.test() if null else None
        self._metrics = Metrics(registry or CollectorRegistry(), self.bundle)

    def __call__(self, x: Batch) -> Decision:
        """Judge a batch.

        Args:
            x: (N, ...) of the model's own dtype, already preprocessed.

        Raises:
            InputError: wrong type, dtype or shape, or values that are not finite.
            InferenceError: a network failed, and the policy is to raise.
        """
        return self.infer(x).decision

    def infer(self, x: Batch, original: Callable[[Batch], NetworkOutput] | None = None) -> GuardedBatch:
        """Judge a batch and give the model's own output too.

        Args:
            x: (N, ...) of the model's own dtype, already preprocessed.
            original: what answers for the original network, such as a wrapped predictor; None is the bundle's own.

        Raises:
            InputError: wrong type, dtype or shape, or values that are not finite.
            InferenceError: a network failed, and the policy is to raise.
        """
        try:
            check_batch(x, self.bundle.manifest.input)
        except InputError:
            self._metrics.count_error("input")
            raise
        pending = self.networks.submit(self._run_clipped, x)
        try:
            with self._metrics.timed("original"):
                answer = (original or self.networks.original)(x)
        except Exception:  # a wrapped predictor raises what it likes
            pending.cancel()
            self._metrics.count_error("inference")
            raise
        try:
            clipped = pending.result(self.policy.timeout)
        except (InferenceError, FutureTimeoutError) as error:
            pending.cancel()
            return self._degrade(answer, error)
        return self._judge(answer, clipped)

    def close(self) -> None:
        """Stop the worker threads."""
        self.networks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_clipped(self, x: Batch) -> NetworkOutput:
        with self._metrics.timed("clipped"):
            return self.networks.clipped(x)

    def _judge(self, original: NetworkOutput, clipped: NetworkOutput) -> GuardedBatch:
        if self._test is None:
            decision = corrected_model(original.logits, clipped.logits, self.policy)
            self._metrics.count(decision)
            return GuardedBatch(decision, (clipped if self.policy.mode == "enforce" else original).outputs)
        with self._metrics.timed("test"):
            decision = decide(original.logits, clipped.logits, self._test, self.policy)
            outputs = self._outputs(original, clipped.logits, decision)
        self._metrics.count(decision)
        return GuardedBatch(decision, outputs)

    def _outputs(self, original: NetworkOutput, clipped: Logits | None, decision: Decision) -> dict[str, Any]:
        spec = self.bundle.manifest.output
        return guarded_outputs(original.outputs, clipped, decision, spec, self.networks.tail)

    def _degrade(self, original: NetworkOutput, error: Exception) -> GuardedBatch:
        late = isinstance(error, FutureTimeoutError)
        self._metrics.count_error("timeout" if late else "inference")
        if self.policy.when_untested == "raise":
            if late:
                raise InferenceError(
                    f"the clipped network was not done {self.policy.timeout} s after the original"
                ) from error
            raise error
        decision = untested(original.logits, self.policy)
        self._metrics.count_degraded(self.policy.when_untested, len(decision))
        return GuardedBatch(decision, self._outputs(original, None, decision))
