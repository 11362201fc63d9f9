"""Detection counters for Prometheus, in the user's own registry. Every metric carries the label `model`."""

import time
import weakref

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from scipy.special import ndtri

from mmguard.bundle.bundle import Bundle
from mmguard.guard.decide import rows_of
from mmguard.guard.forks import COUNTING
from mmguard.types import Decision, Reason

P_VALUE_BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
MARGIN_GAP_BUCKETS = (-20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
STAGES = ("original", "clipped", "test")
ERROR_KINDS = ("input", "inference", "timeout", "overload")
"""What makes a batch fail, and inputs untested."""
SMALLEST = 1e-15
"""p-values nearer to 0 or 1 count as this: rounded to 0 or 1 they would be infinitely many deviations away."""
ROWS_AT_ONCE = 1000
"""Inputs that are counted before others may count again."""
DRIFT_INPUTS = 1000
"""Inputs over which the drift forgets: a step change has reached 63 % after as many."""


class Collectors:
    """The metrics of one registry, shared by every guard that counts in it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mmguard_{name}", text, ("model", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"mmguard_{name}", text, ("model", *labels), buckets=buckets, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mmguard_{name}", text, ("model", *labels), registry=registry, multiprocess_mode="mostrecent")

        self.inputs = counter("inputs", "Inputs that were judged")
        self.detections = counter("detections", "Inputs flagged as carrying a trigger, by reason", "reason")
        self.corrections = counter("corrections", "Flagged inputs whose label was changed")
        self.by_label = counter("detections_by_label", "Flagged inputs, by the original's decision", "label")
        self.errors = counter("errors", "Batches that failed, wholly or in some rows, by kind", "kind")
        self.untested = counter("untested", "Inputs answered without a test, by cause", "cause")
        self.degraded = counter("degraded", "Inputs answered as the on_error policy says, by that policy", "policy")
        self.p_value = histogram("p_value", "p-value of each input; small is suspicious", P_VALUE_BUCKETS)
        self.margin_gap = histogram("margin_gap", "Margin gap of each input, in logits", MARGIN_GAP_BUCKETS)
        self.seconds = histogram("inference_seconds", "Seconds a batch, by stage", Histogram.DEFAULT_BUCKETS, "stage")
        self.drift = gauge(
            "null_drift", "Moving mean of unflagged inputs' test statistic, in standard deviations of the null"
        )
        self.info = gauge("bundle_info", "1, labelled with what runs", "bundle_sha256", "preset", "theta")


_collectors: "weakref.WeakKeyDictionary[CollectorRegistry, Collectors]" = weakref.WeakKeyDictionary()


def collectors_in(registry: CollectorRegistry) -> Collectors:
    """The registry's collectors, made on first use: a name can be registered once only."""
    with COUNTING:
        if registry not in _collectors:
            _collectors[registry] = Collectors(registry)
        return _collectors[registry]


class Metrics:
    """Counts for one model. Safe to call from many threads."""

    def __init__(self, registry: CollectorRegistry, bundle: Bundle) -> None:
        manifest, all_models = bundle.manifest, collectors_in(registry)
        self._model = manifest.name
        self._classes = manifest.classes
        self._tests = manifest.null is not None
        theta = str(manifest.null.theta) if manifest.null else "none"
        self._by_label = all_models.by_label
        self._drift = 0.0
        self._inputs = all_models.inputs.labels(self._model)
        self._corrections = all_models.corrections.labels(self._model)
        self._p_value = all_models.p_value.labels(self._model)
        self._margin_gap = all_models.margin_gap.labels(self._model)
        self._drift_gauge = all_models.drift.labels(self._model)
        self._detections: dict[Reason, Counter] = {
            r: all_models.detections.labels(self._model, r) for r in Reason if r not in (Reason.NONE, Reason.UNTESTED)
        }
        self._seconds = {stage: all_models.seconds.labels(self._model, stage) for stage in STAGES}
        kinds = (*ERROR_KINDS, "on_decision")  # the last of a wrapped predictor's callback, which costs no answer
        self._errors = {kind: all_models.errors.labels(self._model, kind) for kind in kinds}
        self._untested = {kind: all_models.untested.labels(self._model, kind) for kind in ERROR_KINDS}
        self._degraded = {policy: all_models.degraded.labels(self._model, policy) for policy in ("open", "closed")}
        all_models.info.labels(self._model, bundle.digest(), manifest.preset, theta).set(1)

    def took(self, stage: str, seconds: float) -> None:
        """Observe the seconds of one stage of a batch."""
        with COUNTING:
            self._seconds[stage].observe(seconds)

    def count(self, decision: Decision) -> None:
        """Count what was judged of a batch; untested inputs are left out."""
        if np.isnan(decision.p_values).any():
            decision = rows_of(decision, decision.reasons != Reason.UNTESTED)
        with COUNTING:
            self._count(decision)
        if self._tests:
            for start in range(0, len(decision), ROWS_AT_ONCE):
                self._observe(decision, slice(start, start + ROWS_AT_ONCE))
                time.sleep(0)

    def _count(self, decision: Decision) -> None:
        self._inputs.inc(len(decision))
        if not self._tests:
            return
        self._corrections.inc(int(decision.corrected.sum()))
        for reason, number in zip(*np.unique(decision.reasons[decision.flagged], return_counts=True), strict=True):
            self._detections[Reason(str(reason))].inc(int(number))
        labels = np.bincount(decision.original_labels[decision.flagged], minlength=len(self._classes))
        for label in np.flatnonzero(labels):
            self._by_label.labels(self._model, self._classes[label]).inc(int(labels[label]))
        self._update_drift(decision)

    def _observe(self, decision: Decision, rows: slice) -> None:
        with COUNTING:
            for p_value, gap in zip(decision.p_values[rows].tolist(), decision.margin_gaps[rows].tolist(), strict=True):
                self._p_value.observe(p_value)
                self._margin_gap.observe(gap)

    def count_untested(self, cause: str, inputs: int) -> None:
        """Count inputs of a batch that were answered without a test."""
        with COUNTING:
            self._untested[cause].inc(inputs)

    def count_degraded(self, policy: str, inputs: int) -> None:
        """Count inputs of a batch that were answered as the on_error policy says."""
        with COUNTING:
            self._degraded[policy].inc(inputs)

    def count_error(self, kind: str) -> None:
        """Count a batch that failed, wholly or in some rows."""
        with COUNTING:
            self._errors[kind].inc()

    def _update_drift(self, decision: Decision) -> None:
        p_values = decision.p_values[~decision.flagged]
        if not len(p_values):
            return
        deviations = -ndtri(np.clip(p_values, SMALLEST, 1 - SMALLEST))
        weight = 1 - (1 - 1 / DRIFT_INPUTS) ** len(p_values)
        self._drift += weight * (float(deviations.mean()) - self._drift)
        self._drift_gauge.set(self._drift)
