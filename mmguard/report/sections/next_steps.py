"""The section "What to do next": steps for the model, steps for the guard, and alerts on the guard's metrics."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmguard.bundle.manifest import Manifest
from mmguard.detection.audit import LEVEL, ORTHOGONAL
from mmguard.detection.rates import most_by_chance
from mmguard.report.formatting import count, level, p_value, thousands
from mmguard.report.sections.false_positives import FalsePositives
from mmguard.report.sections.maximum_margins import Verdict

UNSEEN = 1000
"""Number of clean inputs that the reader is told to scan."""
VOLUMES = (100, 1000, 10_000, 100_000)
"""Numbers of inputs for which the page shows how many flags can be due to chance alone."""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        title: what to do, in a few words.
        text: why and how.
        command: shell command for this step; empty if there is none.
    """

    title: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class Alert:
    """A condition on a metric that the guard exports at `/metrics`.

    Attributes:
        metric: name of the metric, or several names separated by commas.
        when: condition under which to raise the alert.
        meaning: what it means if the condition is true.
    """

    metric: str
    when: str
    meaning: str


def next_steps(manifest: Manifest, verdict: Verdict, rate: FalsePositives | None) -> tuple[Step, ...]:
    """List what the reader should do.

    Args:
        manifest: the bundle's manifest.
        verdict: the audit's verdict on the original network.
        rate: expected false positives; None if the bundle has no test.

    Returns:
        The steps, in order.
    """
    return (*_about_the_model(manifest, verdict), *(_about_the_test(rate, verdict.backdoored) if rate else (UNTESTED,)))


def _about_the_model(manifest: Manifest, verdict: Verdict) -> Iterator[Step]:
    alpha, behind = level(LEVEL), " Run the model behind the guard." if manifest.null is not None else ""
    if verdict.p_value is None:
        yield Step(
            "Treat the model as unproven",
            f"This report does not show whether the model is backdoored: {verdict.refusal}.{behind}",
        )
        return
    if not verdict.backdoored:
        scales = "the only scale that was judged"
        if len(verdict.p_values) > 1:
            scales = f"any of the {len(verdict.p_values)} scales"
        missed = "" if ORTHOGONAL in dict(verdict.p_values) else "has many targets, "
        yield Step(
            "Treat the model as unproven, not as clean",
            f"None of the {count(len(manifest.classes), 'class')} stands out at {scales} ({p_value(verdict.p_value)}; "
            f"a backdoor is reported at p ≤ α = {alpha}). The model may still be backdoored: the audit can miss a "
            f"backdoor that {missed}works on a single source class only, has a faint trigger, or barely raises the "
            f"margins.{behind}",
        )
        return
    own = verdict.scale == ORTHOGONAL
    usual = "clean inputs of this class have, yet without its features" if own else "any other class can reach"
    yield Step(
        "Do not put this model into service as it is",
        f"Inputs can be changed so that the network predicts class {verdict.name} by a far larger margin than {usual}, "
        f"which is the effect of a trigger. The audit also reports a backdoor in {alpha} of "
        "clean models (its level α), but a class rarely stands out this far in a clean model "
        f"({p_value(verdict.p_value)}). Get a model from a different source, or one trained on data that you can "
        "vouch for.",
    )
    if manifest.null is not None:
        yield Step(
            "If the model must run, guard it and abstain on flagged inputs",
            "A strong trigger hides the true class, so a corrected label is only a guess. The guard detects triggers "
            "in inputs; it does not remove the backdoor from the weights.",
            "mmguard serve BUNDLE --on-flag abstain",
        )
        yield Step(
            f"Review the inputs that the model has already assigned to class {verdict.name}",
            "Scan inputs that the model has already processed. Exit code 3 means that more inputs have p ≤ θ than "
            "can be explained by chance. Quarantine the flagged inputs, find out what they have in common and who "
            "sent them, and keep them out of every training set and calibration set.",
            "mmguard scan BUNDLE INPUTS --out rows.jsonl",
        )


def _about_the_test(rate: FalsePositives, backdoored: bool) -> Iterator[Step]:
    limit = most_by_chance(UNSEEN, rate.theta, rate.n)
    when = "Now" if backdoored else "Before you let the guard act on flags"
    yield Step(
        f"{when}, count the flags on clean inputs that were not used for calibration",
        f"Of {count(UNSEEN, 'clean input')}, about {UNSEEN * rate.theta:.3g} should have p ≤ θ; up to {limit} can be "
        "explained by chance. If more inputs have p ≤ θ, the scanned inputs are unlike the calibration set, or the "
        "calibration set is too small: calibrate again with more clean inputs of the kind that you serve.",
        "mmguard scan BUNDLE UNSEEN_CLEAN_INPUTS",
    )
    if backdoored:
        yield Step(
            "Watch the counters",
            "Set up the alerts below. The most important one is on mmguard_detections_by_label_total: watch for "
            "flagged inputs that the model assigns to the target class.",
        )
    else:
        yield Step(
            "Start in shadow mode and watch the counters",
            "The model's answers stay the same, and flags are only counted. Set up the alerts below. Remove --mode "
            "shadow once the share of flagged inputs stays within the expected range.",
            "mmguard serve BUNDLE --mode shadow",
        )
    yield Step(
        "When a detection alert fires",
        "Keep the flagged inputs, scan everything that arrived in that period, and check whether most flagged inputs "
        "have the same label, which may be a backdoor's target class. Quarantine the flagged inputs and find out who "
        "sent them.",
    )


def alerts(rate: FalsePositives | None) -> tuple[Alert, ...]:
    """List the alerts to set up on the metrics of a serving guard.

    Args:
        rate: expected false positives; None if the bundle has no test.

    Returns:
        The alerts; empty if the bundle has no test.
    """
    if rate is None:
        return ()
    first, *more = [(most_by_chance(volume, rate.theta, rate.n), volume) for volume in VOLUMES]
    *middle, last = [f"{thousands(limit)} of {thousands(volume)}" for limit, volume in more]
    return (
        Alert(
            "mmguard_detections_total",
            f'with any reason but "disagreement": more than {first[0]} of {first[1]} inputs '
            f"(mmguard_inputs_total), {', '.join(middle)} or {last}",
            "clean inputs alone exceed each of these limits in at most 1 of 1000 cases: expect triggered inputs, or "
            "inputs unlike the calibration set",
        ),
        Alert(
            "mmguard_detections_by_label_total",
            "at least 20 flags, more than half of them with the same label",
            "that label may be a backdoor's target class",
        ),
        Alert(
            "mmguard_null_drift",
            "below −0.5 or above 0.5",
            "by a rule of thumb, inputs no longer resemble the calibration set: calibrate again",
        ),
        Alert(
            "mmguard_errors_total, mmguard_untested_total",
            "any increase",
            "inputs caused errors or were answered without a test",
        ),
    )


UNTESTED = Step(
    "Do not rely on this bundle to detect triggers",
    "This bundle was made with the MMOM objective, has no test and flags nothing. If the model may be backdoored, "
    "calibrate it again with the mmac objective. If it is only overfitted, compare both networks on labelled inputs "
    "that were not used for calibration, and only then let the clipped network answer.",
    "mmguard calibrate MODEL CLEAN --objective mmac",
)
