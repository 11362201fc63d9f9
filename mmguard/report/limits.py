"""What this guard cannot promise: first what follows from the facts of its bundle, then what holds for every one."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmguard.bundle.diagnostics import BLIND
from mmguard.bundle.manifest import Manifest
from mmguard.report.evidence import FalsePositives
from mmguard.report.margins import Margins
from mmguard.report.text import count, level, number, percent

FEW = 200
"""Below this many clean inputs, none with p at most 0.005 is what one sees more than a third of the time."""
FEW_A_CLASS = 10


@dataclass(frozen=True)
class Limit:
    """One thing that is not promised: in a few words, then why and what to do."""

    title: str
    text: str


def own_limits(manifest: Manifest, margins: Margins | None, rate: FalsePositives | None) -> tuple[Limit, ...]:
    """Those that hold because of what is in this bundle."""
    return (*_of_test(manifest, rate), *_of_clean_set(manifest), *_of_margins(manifest, margins))


def general_limits(manifest: Manifest) -> tuple[Limit, ...]:
    """Those that hold for every bundle with a test, or for every bundle without."""
    return (*(GENERAL_TEST if manifest.null is not None else ()), *GENERAL)


def _of_test(manifest: Manifest, rate: FalsePositives | None) -> Iterator[Limit]:
    if rate is None:
        yield NO_TEST
        return
    yield from _of_null(manifest, rate)
    yield from _of_level(manifest, rate)
    yield from _of_disagreement(manifest)


def _of_null(manifest: Manifest, rate: FalsePositives) -> Iterator[Limit]:
    yield HELD_OUT if rate.held_out else IN_SAMPLE
    if manifest.settings.get("null_power") == 1:
        yield PLAIN_NORMAL


def _of_level(manifest: Manifest, rate: FalsePositives) -> Iterator[Limit]:
    theta, floor = rate.theta, 1 / (rate.n + 1)
    if rate.ranked:
        yield Limit(
            "No p-value below the sample",
            f"P-values are ranks among {count(rate.n, 'input')}, so that none is below 1/{rate.n + 1} ≈ {floor:.2g}, "
            "however strange the input.",
        )
        return
    if theta < floor:
        bounded = manifest.null is not None and manifest.null.kind == "bounded"
        rests = (
            f"lets an input be flagged only well above all of them: of at most {percent(floor)} of clean inputs, "
            "however they are distributed, and of fewer where large scores grow rare as fast as usual."
            if bounded
            else "rests on the fitted normal distribution alone."
        )
        yield Limit(
            "θ lies beyond the sample",
            f"With {count(rate.n, 'input')} no share below 1/{rate.n + 1} = {percent(floor)} can be counted. "
            f"θ = {level(theta)} {rests}",
        )
    yield Limit(
        "Small p-values are extrapolated",
        f"D can vouch for p-values down to about 1/{rate.n + 1} ≈ {floor:.2g}. Smaller ones order inputs by "
        "suspicion; they are no measured frequencies.",
    )
    if not rate.nominal_fits:
        often = "more" if rate.share > theta else "less"
        yield Limit(
            "θ is not what D shows",
            f"{rate.count} of {rate.n} inputs of D have p ≤ θ, {often} often than θ says, by more than chance explains "
            "at 95 %. Read the observed rate, not θ.",
        )


def _of_disagreement(manifest: Manifest) -> Iterator[Limit]:
    null, apart = manifest.null, 1 - manifest.calibration.agreement
    assert null is not None, "only bundles with a test have a rate"
    if null.disagreement_theta >= 1:
        yield Limit(
            "Every disagreement flags",
            f"The two networks decide differently on {percent(apart)} of D, and each such input is flagged whatever "
            "its p-value.",
        )
    elif null.disagreement_theta > null.theta:
        yield Limit(
            "Disagreements flag at a higher level",
            f"An input on which the networks decide differently is flagged at p ≤ {null.disagreement_theta:g}. The "
            f"share of clean inputs flagged for either reason may therefore be up to {level(null.disagreement_theta)}.",
        )


def _of_clean_set(manifest: Manifest) -> Iterator[Limit]:
    figures, classes = manifest.calibration, len(manifest.classes)
    if figures.n < FEW:
        yield Limit(
            "Few clean inputs",
            f"{count(figures.n, 'input')} leave the tail of the null and the ranges of the activations uncertain. "
            "50 inputs a class are what the method was designed on.",
        )
    if figures.n < FEW_A_CLASS * classes:
        yield Limit(
            "Few inputs a class",
            f"D has {figures.n / classes:.1f} inputs a class on average. Classes that it hardly shows may be clipped "
            "or flagged more than the averages on this page say.",
        )
    if not figures.labelled:
        yield Limit(
            "D is unlabelled",
            "No accuracy can be given: this page tells how often clipping keeps the original's decision, not how often "
            "a decision is right.",
        )


def _of_margins(manifest: Manifest, margins: Margins | None) -> Iterator[Limit]:
    if margins is not None and margins.after > BLIND * margins.before:
        what = "falls only" if margins.after < margins.before else "does not fall: it goes"
        yield Limit(
            "Clipping changes little",
            f"The largest margin of inputs searched one by one {what} from {number(margins.before)} to "
            f"{number(margins.after)} logits, "
            "so this guard may catch little. More rounds may help, or some activations are no clip sites (see the "
            "table).",
        )
    if manifest.settings.get("tolerance") and not manifest.calibration.converged:
        yield Limit(
            "Rounds ended at their limit",
            "The objective was still changing when calibration ended; more rounds would give somewhat other bounds.",
        )


NO_TEST = Limit(
    "No test",
    "This bundle has no null distribution. Its clipped network answers in place of the original, no input is flagged, "
    "and a triggered input gets no warning. MMOM is for overfitted models, not for backdoored ones.",
)

IN_SAMPLE = Limit(
    "The null is in-sample",
    "The null was fitted on the inputs that the bounds were learned from, so it is too narrow and the figures of false "
    "positives here are optimistic. Before you enforce, run mmguard scan on clean inputs that calibration never saw.",
)

HELD_OUT = Limit(
    "Held out, by other bounds",
    "Each input was tested by bounds that were learned without it. They differ a little from those that are deployed, "
    "so the figures of false positives are approximate.",
)

PLAIN_NORMAL = Limit(
    "A plain normal distribution",
    "This preset fits no power transform. Clean inputs' statistics are usually skewed to the right, and a plain normal "
    "distribution then flags more of them than θ says.",
)

GENERAL_TEST = (
    Limit(
        "Triggers that look like clean inputs",
        "A trigger is seen by activations above what clean inputs reach. The less it moves an input, as a faint warp "
        "or blend does, and the nearer the input is to the attacker's class anyway, the likelier it passes.",
    ),
    Limit(
        "Attackers who know mmguard",
        "Whoever holds this bundle can search for inputs that pass its test. The bundle is as secret as the model; "
        "docs/threat-model.md of mmguard has what was measured.",
    ),
    Limit(
        "Flags on clean inputs cost accuracy",
        "Where flagged inputs are answered with the corrected label, most false positives get another label than the "
        "original's. Abstaining, or shadow mode, avoids that.",
    ),
)

GENERAL = (
    Limit(
        "D is taken on trust",
        "Bounds and null are of this clean set. Triggered inputs in it are learned as normal, and for inputs of "
        "another kind than D (another camera, season or customer) the figures here do not hold.",
    ),
    Limit(
        "Only the clip sites are bounded",
        "Activations that are not in the table of clip sites pass unclipped, and the weights are the user's own: "
        "nothing is repaired.",
    ),
    Limit(
        "Hashes are no signature",
        "Whoever can write the manifest can change this page and the test with it. Keep the manifest's SHA-256 "
        "elsewhere; mmguard verify prints it.",
    ),
)
