"""The guard: runs the networks on every batch, tests the inputs, applies the policy and counts the results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from prometheus_client import REGISTRY, CollectorRegistry

from mmguard.bundle.bundle import Bundle
from mmguard.detection.screen import Screen
from mmguard.errors import CopyError, InputError, OptionError
from mmguard.guard.forks import COUNTING
from mmguard.guard.judge import Judge
from mmguard.guard.metrics import Metrics
from mmguard.guard.networks import open_networks
from mmguard.guard.policy import Policy
from mmguard.guard.running import Runner
from mmguard.guard.sessions import PROVIDERS, NetworkOutput
from mmguard.inputs.batch_checks import check_batch, check_dtype_and_shape, rows_not_finite
from mmguard.types import BoolArray, Decision

Batch = npt.NDArray[Any]


@dataclass(frozen=True)
class GuardedBatch:
    """The guard's results for one batch.

    Attributes:
        decision: the guard's decision for each input.
        outputs: the model's own outputs with the policy applied, by name; see `mmguard.guard.answer`.
    """

    decision: Decision
    outputs: dict[str, Any]

    @property
    def output(self) -> Any:
        """The first output."""
        return next(iter(self.outputs.values()))


class Guard:
    """Runs a bundle's original network, and its clipped network where needed, and tests every input.

    The clipped network runs on inputs that look unusual in the original network, or on every input (`Policy.screen`).
    A guard is safe to call from many threads.

    If the bundle has no test (MMOM), nothing is flagged, and the clipped network's answers are returned; in shadow
    mode, the original network's answers are returned instead.

    A guard owns worker threads, so use the guard in a `with` block, or call `close` when you no longer need it.

    Args:
        bundle: path of a guard bundle, or an open `Bundle`.
        providers: ONNX Runtime execution providers in order of preference; None uses the CPU. If the first provider is
            not available, the guard raises an error; it never silently falls back to another provider.
        policy: what to do with flagged inputs and with inputs that cannot be tested; None uses `Policy()`.
        registry: Prometheus registry for the metrics; None keeps the metrics in a private registry.
        threads: number of intra-op threads of each session; None uses half of the cores.

    Attributes:
        bundle: the open bundle.
        networks: the bundle's networks.
        policy: the policy in use.

    Raises:
        BundleError: `bundle` is not a guard bundle, or its files were changed.
        ModelError: ONNX Runtime cannot load a network.
        ProviderError: the first provider is not available.
        OptionError: `policy` is not a `Policy`, or `threads` is less than 1.
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
            raise OptionError(f"policy must be an mmguard.Policy, such as Policy(on_flag='abstain'), got {policy!r}")
        self.bundle, self.networks = open_networks(bundle, providers or PROVIDERS["cpu"], threads)
        with COUNTING:
            self._metrics = Metrics(registry or CollectorRegistry(), self.bundle)
        manifest = self.bundle.manifest
        screen = Screen.of(manifest.null.test(), self.policy.screen) if manifest.null else None
        self._run = Runner(self.networks, bool(manifest.evidence), screen, self.policy, self._metrics)
        self._judge = Judge(manifest, self.policy, self._metrics, self.networks.head)

    def __call__(self, x: Batch) -> Decision:
        """Judge a batch, row by row.

        Args:
            x: preprocessed inputs, (N, ...), with the model's input dtype.

        Returns:
            The guard's decision for each of the N inputs.

        Raises:
            InputError: x has the wrong type, dtype or shape; or x contains NaN or infinity, and the policy is to raise
                an error.
            InferenceError: the original network failed; or the clipped network failed for some or all rows, and the
                policy is to raise an error.
            OverloadError: too many batches are in flight. Not raised in shadow mode.
        """
        return self.infer(x).decision

    def infer(self, x: Batch, original: Callable[[Batch], NetworkOutput] | None = None) -> GuardedBatch:
        """Judge a batch, and also return the model's own outputs.

        Args:
            x: preprocessed inputs, (N, ...), with the model's input dtype.
            original: function to call instead of the bundle's original network, such as a wrapped predictor; None runs
                the bundle's original network. The function receives its own copy of `x` and may modify that copy. It
                may also reuse the memory of its outputs in its next call.

        Returns:
            The decision, and the model's own outputs with the policy applied.

        Raises:
            InputError: see `__call__`.
            InferenceError: see `__call__`.
            OverloadError: see `__call__`.
            Exception: any exception that `original` raised.
        """
        self._reopen_if_forked()
        not_finite = self._check(x)
        ran = self._run(x, not_finite, original)
        axis = self.bundle.manifest.mirror_axis
        mirrored = None if axis is None else partial(self._run.mirrored, x, axis)
        return GuardedBatch(*self._judge(ran, not_finite, mirrored))

    def scan(self, inputs: str | Path, *, skip_bad: bool = False) -> Iterator[dict[str, Any]]:
        """Judge a folder of images or a file of arrays, like `mmguard scan`. Inputs are read only while you iterate.

        Args:
            inputs: a folder, in which every file is treated as an input regardless of its name; an image; an `.npy`
                file; an `.npz` file with an array `x`; or a `.csv` file, whose columns are matched by name if the
                bundle was calibrated on a table.
            skip_bad: whether to continue after an input that cannot be read or judged, instead of raising an error.
                Also open the guard with `Policy(on_error="closed")`; otherwise an input that the networks cannot judge
                still causes an error.

        Returns:
            An iterator over result rows, one for each file or array row, in order. Each result row contains `input`,
            and either the decision (`label`, `flagged`, `p_value`, ...), `error` or `skipped`; all keys are described
            in `mmguard.guard.scan.scan`.

        Raises:
            InputError: there is nothing to scan, or an input cannot be read or does not fit the model. The error
                is raised while you iterate.
            InferenceError: the networks cannot judge an input. The error is raised while you iterate.
        """
        from mmguard.guard.scan import scan  # imported here because Pillow loads slowly

        return scan(self, Path(inputs), skip_bad)

    def count_error(self, kind: str) -> None:
        """Count a failure that happened outside the guard.

        Args:
            kind: value of the label `kind` of the metric `mmguard_errors_total`.
        """
        self._metrics.count_error(kind)

    def close(self) -> None:
        """Stop the worker threads once the batches in flight have finished. Later calls raise InferenceError.

        A guard is also closed at the end of its `with` block. Closing a closed guard has no effect.
        """
        self.networks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise CopyError(
            "a guard cannot be copied or pickled, because it owns open sessions and threads; pass the bundle's path "
            f"instead, and open a new guard where you need it: mmguard.Guard({str(self.bundle.path)!r})"
        )

    def _reopen_if_forked(self) -> None:
        try:
            self.networks.ready()
        except Exception:
            self._metrics.count_error("inference")
            raise

    def _check(self, x: Batch) -> BoolArray | None:
        """Check a batch. Return a mask (N,) of the rows that are not finite, or None if all rows are finite."""
        spec = self.bundle.manifest.input
        try:
            if self.policy.when_untested == "raise":
                check_batch(x, spec)
                return None
            check_dtype_and_shape(x, spec)
        except InputError:
            self._metrics.count_error("input")
            raise
        return None if np.isfinite(x).all() else rows_not_finite(x)
