"""The guard's Prometheus metrics, in the user's own registry. Every metric has the label `model`."""

import weakref

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from scipy.special import ndtri

from mmguard.bundle.bundle import Bundle
from mmguard.guard.decide import rows_of
from mmguard.guard.forks import COUNTING
from mmguard.types import Decision, FloatArray, Reason

P_VALUE_BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
MARGIN_GAP_BUCKETS = (-20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
STAGES = ("original", "activations", "clipped", "test")
ERROR_KINDS = ("input", "inference", "timeout", "overload")
"""Causes of failed batches and of untested inputs."""
SMALLEST = 1e-15
"""p-values are kept at least this far from 0 and 1, because 0 and 1 correspond to infinitely many standard
deviations."""
FEW = 4
"""Up to this number of values, counting them one by one is faster."""
DRIFT_INPUTS = 1000
"""Time constant of the drift's moving average, in inputs: this many inputs after a step change, the average has moved
63 % of the way."""


class BatchHistogram(Histogram):
    """A histogram that counts all values of a batch at once."""

    def observe_all(self, values: FloatArray) -> None:
        """Count values, like a call of `observe` for each of them.

        Args:
            values: (N,) float64.
        """
        if len(values) <= FEW:
            for value in values.tolist():
                self.observe(value)
            return
        counts = np.bincount(np.searchsorted(self._upper_bounds, values))
        self._sum.inc(float(values.sum()))
        for place in np.flatnonzero(counts):
            self._buckets[place].inc(int(counts[place]))


class Collectors:
    """The metrics of one registry, shared by all guards that use the registry.

    Args:
        registry: registry in which the metrics are registered.

    Attributes:
        inputs: `mmguard_inputs_total`.
        detections: `mmguard_detections_total{reason}`.
        corrections: `mmguard_corrections_total`.
        by_label: `mmguard_detections_by_label_total{label}`.
        errors: `mmguard_errors_total{kind}`.
        untested: `mmguard_untested_total{cause}`.
        degraded: `mmguard_degraded_total{policy}`.
        p_value: `mmguard_p_value`.
        margin_gap: `mmguard_margin_gap`.
        held_back: `mmguard_held_back_total`.
        seconds: `mmguard_inference_seconds{stage}`.
        drift: `mmguard_null_drift`.
        info: `mmguard_bundle_info{bundle_sha256, preset, theta}`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mmguard_{name}", text, ("model", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> BatchHistogram:
            return BatchHistogram(f"mmguard_{name}", text, ("model", *labels), buckets=buckets, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mmguard_{name}", text, ("model", *labels), registry=registry, multiprocess_mode="mostrecent")

        self.inputs = counter("inputs", "Inputs judged")
        self.held_back = counter("held_back", "Inputs that did not pass the screen")
        self.detections = counter(
            "detections", "Inputs flagged because they may contain a trigger, by reason", "reason"
        )
        self.corrections = counter("corrections", "Flagged inputs whose label was changed")
        self.by_label = counter("detections_by_label", "Flagged inputs, by the original network's decision", "label")
        self.errors = counter("errors", "Batches in which some or all inputs failed, by kind of error", "kind")
        self.untested = counter("untested", "Inputs answered without being tested, by cause", "cause")
        self.degraded = counter("degraded", "Inputs answered according to the on_error policy, by policy", "policy")
        self.p_value = histogram("p_value", "p-value of each input; smaller is more suspicious", P_VALUE_BUCKETS)
        self.margin_gap = histogram(
            "margin_gap", "Margin gap of each input, in logits; larger is more suspicious", MARGIN_GAP_BUCKETS
        )
        self.seconds = histogram("inference_seconds", "Seconds per batch, by stage", Histogram.DEFAULT_BUCKETS, "stage")
        self.drift = gauge(
            "null_drift", "Moving average of unflagged inputs' scores, in standard deviations above the null's mean"
        )
        self.info = gauge(
            "bundle_info", "Always 1; the labels identify the bundle in use", "bundle_sha256", "preset", "theta"
        )


_collectors: "weakref.WeakKeyDictionary[CollectorRegistry, Collectors]" = weakref.WeakKeyDictionary()


def collectors_in(registry: CollectorRegistry) -> Collectors:
    """Return the metrics of a registry. Create them on first use only, because a name can be registered only once.

    Args:
        registry: the registry.

    Returns:
        The metrics; all calls for the same registry return the same object.
    """
    with COUNTING:
        if registry not in _collectors:
            _collectors[registry] = Collectors(registry)
        return _collectors[registry]


class Metrics:
    """Records the metrics of one model. Safe to call from many threads.

    Args:
        registry: registry in which the metrics are registered.
        bundle: the bundle in use; its name is the value of the label `model`.
    """

    def __init__(self, registry: CollectorRegistry, bundle: Bundle) -> None:
        manifest, all_models = bundle.manifest, collectors_in(registry)
        self._model = manifest.name
        self._classes = manifest.classes
        self._tests = manifest.null is not None
        theta = str(manifest.null.theta) if manifest.null else "none"
        self._by_label = all_models.by_label
        self._drift = 0.0
        self._inputs = all_models.inputs.labels(self._model)
        self._held_back = all_models.held_back.labels(self._model)
        self._corrections = all_models.corrections.labels(self._model)
        self._p_value = all_models.p_value.labels(self._model)
        self._margin_gap = all_models.margin_gap.labels(self._model)
        self._drift_gauge = all_models.drift.labels(self._model)
        self._detections: dict[Reason, Counter] = {
            r: all_models.detections.labels(self._model, r) for r in Reason if r not in (Reason.NONE, Reason.UNTESTED)
        }
        self._seconds = {stage: all_models.seconds.labels(self._model, stage) for stage in STAGES}
        kinds = (*ERROR_KINDS, "on_decision")  # on_decision: the user's callback failed, but the answer is returned
        self._errors = {kind: all_models.errors.labels(self._model, kind) for kind in kinds}
        self._untested = {kind: all_models.untested.labels(self._model, kind) for kind in ERROR_KINDS}
        self._degraded = {policy: all_models.degraded.labels(self._model, policy) for policy in ("open", "closed")}
        all_models.info.labels(self._model, bundle.digest(), manifest.preset, theta).set(1)

    def took(self, stage: str, seconds: float) -> None:
        """Record the time that one stage of a batch took.

        Args:
            stage: one of `STAGES`.
            seconds: how long the stage took, in seconds.
        """
        with COUNTING:
            self._seconds[stage].observe(seconds)

    def count(self, decision: Decision) -> None:
        """Count the inputs of a batch, except untested inputs.

        Args:
            decision: the decision for the batch.
        """
        if np.isnan(decision.p_values).any():
            decision = rows_of(decision, decision.reasons != Reason.UNTESTED)
        with COUNTING:
            self._count(decision)

    def count_held_back(self, inputs: int) -> None:
        """Count inputs that did not pass the screen.

        Args:
            inputs: number of inputs.
        """
        with COUNTING:
            self._held_back.inc(int(inputs))

    def count_passed(self, p_values: FloatArray) -> None:
        """Count a batch in which every input passed the screen.

        Args:
            p_values: (N,) float64, the p-values of the screen.
        """
        with COUNTING:
            self._inputs.inc(len(p_values))
            self._p_value.observe_all(p_values)
            self._update_drift(p_values)

    def _count(self, decision: Decision) -> None:
        self._inputs.inc(len(decision))
        if not self._tests:
            return
        self._update_drift(decision.p_values[~decision.flagged])
        self._p_value.observe_all(decision.p_values)
        gaps = decision.margin_gaps[~np.isnan(decision.margin_gaps)]
        if len(gaps):
            self._margin_gap.observe_all(gaps)
        if not decision.flagged.any():
            return
        self._corrections.inc(int(decision.corrected.sum()))
        for reason, number in zip(*np.unique(decision.reasons[decision.flagged], return_counts=True), strict=True):
            self._detections[Reason(str(reason))].inc(int(number))
        labels = np.bincount(decision.original_labels[decision.flagged], minlength=len(self._classes))
        for label in np.flatnonzero(labels):
            self._by_label.labels(self._model, self._classes[label]).inc(int(labels[label]))

    def count_untested(self, cause: str, inputs: int) -> None:
        """Count inputs of a batch that were answered without a test.

        Args:
            cause: one of `ERROR_KINDS`.
            inputs: number of inputs.
        """
        with COUNTING:
            self._untested[cause].inc(inputs)

    def count_degraded(self, policy: str, inputs: int) -> None:
        """Count inputs of a batch that were answered according to the on_error policy.

        Args:
            policy: `open` or `closed`.
            inputs: number of inputs.
        """
        with COUNTING:
            self._degraded[policy].inc(inputs)

    def count_error(self, kind: str) -> None:
        """Count a batch in which some or all inputs failed.

        Args:
            kind: one of `ERROR_KINDS`, or `on_decision`.
        """
        with COUNTING:
            self._errors[kind].inc()

    def _update_drift(self, p_values: FloatArray) -> None:
        """Update the drift by the p-values (N,) of inputs that are not flagged."""
        if not len(p_values):
            return
        deviations = -ndtri(np.minimum(np.maximum(p_values, SMALLEST), 1 - SMALLEST))
        weight = 1 - (1 - 1 / DRIFT_INPUTS) ** len(p_values)
        self._drift += weight * (float(deviations.mean()) - self._drift)
        self._drift_gauge.set(self._drift)
