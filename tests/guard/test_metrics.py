from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import norm

from mmguard.errors import InferenceError, InputError
from mmguard.guard import Guard, Policy
from mmguard.guard.metrics import (
    DRIFT_INPUTS,
    ERROR_KINDS,
    FEW,
    MARGIN_GAP_BUCKETS,
    P_VALUE_BUCKETS,
    BatchHistogram,
    Metrics,
)
from mmguard.types import Decision
from tests.bundles import CLASSES, add_trigger, clean_inputs, write_tiny_bundle
from tests.guard.serving.servers import Gate

MIXED = np.concatenate([clean_inputs(40, seed=3), add_trigger(clean_inputs(24, seed=4))])
Value = Callable[..., float | None]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def value(registry: CollectorRegistry) -> Value:
    """A sample's value by its name without `mmguard_`; of the model `tiny` unless another is named."""

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"mmguard_{name}", {"model": "tiny"} | labels)

    return read


def test_counters_equal_the_decisions(tiny_bundle: Path, registry: CollectorRegistry, value: Value) -> None:
    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        decisions = [guard(MIXED[:10]), guard(MIXED[10:]), guard(MIXED[:0])]
    flagged = np.concatenate([decision.flagged for decision in decisions])
    original = np.concatenate([decision.original_labels for decision in decisions])
    reasons = np.concatenate([decision.reasons for decision in decisions])
    assert value("inputs_total") == len(MIXED)
    assert value("corrections_total") == flagged.sum() > 0
    for reason in ("disagreement", "confidence", "both"):
        assert value("detections_total", reason=reason) == (reasons == reason).sum()
    assert value("detections_total", reason="none") is None
    for label, name in enumerate(CLASSES):
        assert (value("detections_by_label_total", label=name) or 0) == (flagged & (original == label)).sum()
    for stage in ("original", "clipped", "test"):
        assert value("inference_seconds_count", stage=stage) == 3


def test_histograms_count_each_value_in_its_bucket(
    tiny_bundle: Path, registry: CollectorRegistry, value: Value
) -> None:
    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        decision = guard(MIXED)
    for name, buckets, values in (
        ("p_value", P_VALUE_BUCKETS, decision.p_values),
        ("margin_gap", MARGIN_GAP_BUCKETS, decision.margin_gaps),
    ):
        for bound in buckets:
            assert value(f"{name}_bucket", le=str(bound)) == (values <= bound).sum()
        assert value(f"{name}_count") == len(values)


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, 300])
def test_a_batch_is_counted_as_its_values_one_by_one(count: int) -> None:
    bounds = (-1.0, 0.0, 2.0)
    values = np.random.default_rng(count).choice([-3, -1, -0.5, 0, 1, 2, 2.0000001, 9], count).astype(np.float64)
    samples = []
    for at_once in (True, False):
        registry = CollectorRegistry()
        histogram = BatchHistogram("gap", "gaps", ("model",), buckets=bounds, registry=registry).labels("m")
        if at_once:
            histogram.observe_all(values)
        else:
            for each in values.tolist():
                histogram.observe(each)
        (family,) = registry.collect()
        samples.append([(each.name, each.labels, each.value) for each in family.samples if "created" not in each.name])
    assert samples[0] == samples[1]


@pytest.mark.parametrize(
    ("policy", "corrections"), [({"mode": "shadow"}, 0), ({"on_flag": "abstain"}, 0), ({"on_flag": "original"}, 0)]
)
def test_detections_are_counted_whatever_is_done_about_them(
    tiny_bundle: Path, registry: CollectorRegistry, value: Value, policy: dict[str, Any], corrections: int
) -> None:
    with Guard(tiny_bundle, policy=Policy(**policy), registry=registry, threads=1) as guard:
        flagged = guard(MIXED).flagged.sum()
    reasons = ("disagreement", "confidence", "both")
    assert sum(value("detections_total", reason=reason) or 0 for reason in reasons) == flagged > 0
    assert value("corrections_total") == corrections


def test_refused_inputs_are_counted_as_errors(tiny_bundle: Path, registry: CollectorRegistry, value: Value) -> None:
    with Guard(tiny_bundle, registry=registry, threads=1) as guard, pytest.raises(InputError):
        guard(MIXED[:, :2])
    assert (value("errors_total", kind="input"), value("inputs_total")) == (1, 0)


@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_untested_inputs_are_counted_as_degraded(
    tmp_path: Path, registry: CollectorRegistry, value: Value, on_error: Any
) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", broken=True)
    with Guard(bundle, policy=Policy(on_error=on_error), registry=registry, threads=1) as guard:
        guard(MIXED)
    other = {"open": "closed", "closed": "open"}[on_error]
    assert (value("degraded_total", policy=on_error), value("degraded_total", policy=other)) == (len(MIXED), 0)
    assert (value("errors_total", kind="inference"), value("inputs_total")) == (1, 0)
    causes = {cause: value("untested_total", cause=cause) for cause in ERROR_KINDS}
    assert causes == {"input": 0, "inference": len(MIXED), "timeout": 0, "overload": 0}


def test_failures_are_counted_once_by_kind(
    tiny_bundle: Path, registry: CollectorRegistry, value: Value, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(x: Any) -> Any:
        raise InferenceError("no")

    with Guard(tiny_bundle, policy=Policy(timeout=0.01), registry=registry, threads=1) as guard:
        with pytest.raises(InferenceError):
            guard.infer(MIXED, fail)
        gate = Gate(guard.networks.clipped)
        monkeypatch.setattr(guard.networks, "clipped", gate)
        with pytest.raises(InferenceError):
            guard(MIXED)
        gate.opened.set()
    assert (value("errors_total", kind="inference"), value("errors_total", kind="timeout")) == (1, 1)


def test_what_runs_is_told(tiny_bundle: Path, registry: CollectorRegistry, value: Value) -> None:
    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        sha256 = guard.bundle.digest()
    assert value("bundle_info", bundle_sha256=sha256, preset="default", theta="0.005") == 1


def test_two_guards_share_a_registry(
    tmp_path: Path, tiny_bundle: Path, registry: CollectorRegistry, value: Value
) -> None:
    other = write_tiny_bundle(tmp_path / "b", "other", seed=1)
    with (
        Guard(tiny_bundle, registry=registry, threads=1) as first,
        Guard(other, registry=registry, threads=1) as second,
        Guard(tiny_bundle, registry=registry, threads=1) as again,
    ):
        first(MIXED[:3])
        second(MIXED[:5])
        again(MIXED[:7])
    assert (value("inputs_total"), value("inputs_total", model="other")) == (10, 5)


def test_a_guard_without_a_registry_stays_out_of_the_default_one(tiny_bundle: Path) -> None:
    Guard(tiny_bundle, registry=None, threads=1).close()
    assert REGISTRY.get_sample_value("mmguard_inputs_total", {"model": "tiny"}) is None


def test_a_registry_may_hold_the_user_s_own_metrics(tiny_bundle: Path, registry: CollectorRegistry) -> None:
    Counter("requests", "The user's own", registry=registry).inc()
    Guard(tiny_bundle, registry=registry, threads=1).close()
    assert registry.get_sample_value("requests_total") == 1


def test_the_names_are_those_of_the_docs(tiny_bundle: Path, registry: CollectorRegistry) -> None:
    Guard(tiny_bundle, registry=registry, threads=1).close()
    families = text_string_to_metric_families(generate_latest(registry).decode())
    kinds = {family.name: family.type for family in families if not family.name.endswith("_created")}
    assert kinds == {
        "mmguard_inputs": "counter",
        "mmguard_detections": "counter",
        "mmguard_corrections": "counter",
        "mmguard_held_back": "counter",
        "mmguard_detections_by_label": "counter",
        "mmguard_errors": "counter",
        "mmguard_untested": "counter",
        "mmguard_degraded": "counter",
        "mmguard_p_value": "histogram",
        "mmguard_margin_gap": "histogram",
        "mmguard_inference_seconds": "histogram",
        "mmguard_null_drift": "gauge",
        "mmguard_bundle_info": "gauge",
    }


def decision_of(deviations: list[float], flagged: list[bool]) -> Decision:
    n = len(deviations)
    zeros, gaps, p_values = np.zeros(n, np.int64), np.zeros(n), norm.sf(deviations)
    reasons = np.where(flagged, "confidence", "none")
    return Decision(zeros, zeros, zeros, np.array(flagged, bool), np.zeros(n, bool), reasons, p_values, gaps, gaps)


def test_the_drift_is_the_moving_mean_of_unflagged_inputs_in_deviations(
    tiny_bundle: Path, registry: CollectorRegistry, value: Value
) -> None:
    metrics = Metrics(registry, Guard(tiny_bundle, registry=None, threads=1).bundle)
    high, low = 2.5, -1.5
    for _ in range(DRIFT_INPUTS):
        metrics.count(decision_of([high, 40.0], [False, True]))
    after_high = high * (1 - np.exp(-1))
    assert value("null_drift") == pytest.approx(after_high, rel=1e-3)
    metrics.count(decision_of([low] * DRIFT_INPUTS, [False] * DRIFT_INPUTS))
    assert value("null_drift") == pytest.approx(low * (1 - np.exp(-1)) + after_high * np.exp(-1), rel=1e-2)
    before = value("null_drift")
    metrics.count(decision_of([40.0], [True]))
    metrics.count(decision_of([], []))
    assert value("null_drift") == before
    metrics.count(decision_of([-40.0], [False]))
    after = value("null_drift")
    assert after is not None
    assert np.isfinite(after)
