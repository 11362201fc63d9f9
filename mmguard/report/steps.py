"""What a reader should do next: first about the model, as the audit's verdict says, then about the guard."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmguard.bundle.manifest import Manifest
from mmguard.detection.audit import LEVEL
from mmguard.detection.rates import most_by_chance
from mmguard.report.evidence import FalsePositives
from mmguard.report.margins import Verdict
from mmguard.report.text import count, level, p_value, thousands

VOLUMES = (100, 1000, 10_000, 100_000)
"""Numbers of inputs for which the page says how many flags are too many."""


@dataclass(frozen=True)
class Step:
    """One thing to do: in a few words, then why and how, and the command that does it."""

    title: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class Alert:
    """A counter of `/metrics`, when it should raise an alarm, and what it then means."""

    counter: str
    when: str
    meaning: str


def next_steps(manifest: Manifest, verdict: Verdict, rate: FalsePositives | None) -> tuple[Step, ...]:
    """What to do, in order."""
    return (*_about_the_model(manifest, verdict), *(_about_the_test(rate, verdict.backdoored) if rate else (UNTESTED,)))


def _about_the_model(manifest: Manifest, verdict: Verdict) -> Iterator[Step]:
    alpha, behind = level(LEVEL), " Run the model behind the guard." if manifest.null is not None else ""
    if verdict.p_value is None:
        yield Step(
            "Treat the model as unproven",
            f"Nothing here says whether it is backdoored: {verdict.refusal}.{behind}",
        )
        return
    if not verdict.backdoored:
        scales = f"any of the {len(verdict.p_values)} scales" if len(verdict.p_values) > 1 else "the scale searched"
        yield Step(
            "Treat the model as unproven, not as clean",
            f"None of {count(len(manifest.classes), 'class')} stands out at {scales} ({p_value(verdict.p_value)}; a "
            f"backdoor is reported at p ≤ α = {alpha}). A backdoor may still be there: one with many targets, one that "
            f"works on a single source class, or one that hardly raises the margins.{behind}",
        )
        return
    yield Step(
        "Do not put this model into service as it is",
        f"Inputs can be changed so that the network decides for class {verdict.name} by a margin far beyond that of "
        f"any other class, which is what a trigger does. At this level (α) {alpha} of clean models are reported too, "
        f"but few stand out this far: {p_value(verdict.p_value)}. Get a model from another source, or one trained on "
        "data that you can vouch for.",
    )
    if manifest.null is not None:
        yield Step(
            "If it must run, guard it, and give flagged inputs no label",
            "A strong trigger buries the true class, so a corrected label is only a guess. The guard finds triggers "
            "in inputs; it does not take the backdoor out of the weights.",
            "mmguard serve BUNDLE --on-flag abstain",
        )
        yield Step(
            f"Look at what the model has already decided for class {verdict.name}",
            "Scan inputs that it has seen. Exit code 3 says that more are flagged than clean inputs would give. "
            "Quarantine what is flagged, see what it has in common and who sent it, and keep it out of every training "
            "set and every clean set.",
            "mmguard scan BUNDLE INPUTS --out rows.jsonl",
        )


def _about_the_test(rate: FalsePositives, backdoored: bool) -> Iterator[Step]:
    limit, when = most_by_chance(1000, rate.theta, rate.n), "At once" if backdoored else "Before you enforce"
    yield Step(
        f"{when}, count the flags on clean inputs that calibration never saw",
        f"Of {count(1000, 'such input')} about {1000 * rate.theta:.3g} should have p ≤ θ; up to {limit} can be chance. "
        "If there are more, they are unlike the clean set D, or D is too small: calibrate again, with more clean "
        "inputs of the kind that is served.",
        "mmguard scan BUNDLE UNSEEN_CLEAN_INPUTS",
    )
    if backdoored:
        yield Step("Watch the counters", "Set the alerts below, that on the label of the target class above all.")
    else:
        yield Step(
            "Begin in shadow mode, and watch the counters",
            "The model then answers as before, and flags are only counted. Set the alerts below. Leave --mode shadow "
            "out once the share of flags stays where it should.",
            "mmguard serve BUNDLE --mode shadow",
        )
    yield Step(
        "When an alert of flags goes off",
        "Keep the flagged inputs, scan everything that came in at that time, and see which label the flags have in "
        "common: that of a backdoor's target sticks out. Quarantine, and ask who sent them.",
    )


def alerts(manifest: Manifest, rate: FalsePositives | None) -> tuple[Alert, ...]:
    """When the counters of a serving guard should raise an alarm."""
    if rate is None:
        return ()
    first, *more = [(most_by_chance(volume, rate.theta, rate.n), volume) for volume in VOLUMES]
    rest = "".join(f", {thousands(limit)} of {thousands(volume)}" for limit, volume in more)
    return (
        Alert(
            "mmguard_detections_total",
            f"by reason confidence or both: more than {first[0]} of {first[1]} inputs (mmguard_inputs_total){rest}",
            "clean inputs give so many only once in a thousand times: expect triggers, or inputs unlike D",
        ),
        Alert(
            "mmguard_detections_by_label_total",
            "one label has more than half of at least 20 flags",
            "that label may be a backdoor's target",
        ),
        Alert(
            "mmguard_null_drift",
            "below −0.5 or above 0.5",
            "inputs are no longer like D, by a rule of thumb: calibrate again",
        ),
        Alert(
            "mmguard_errors_total, mmguard_untested_total",
            "any rise",
            "inputs failed, or were answered without a test",
        ),
    )


UNTESTED = Step(
    "Do not count on this bundle to find triggers",
    "It was made with the objective MMOM, has no test and flags nothing. If the model may be backdoored, calibrate it "
    "again with the objective mmac. If it is only overfitted, compare both networks on labelled inputs that "
    "calibration never saw before you let the clipped one answer.",
    "mmguard calibrate MODEL CLEAN --objective mmac",
)
