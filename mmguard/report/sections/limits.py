"""The section "Limits": the limits of this bundle's guard, followed by the limits of every guard."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmguard.bundle.diagnostics import BLIND
from mmguard.bundle.manifest import Manifest
from mmguard.detection.groups import MIN_OF_CLASS
from mmguard.detection.screen import DEFAULT_SHARE, Screen
from mmguard.report.formatting import count, level, number, percent
from mmguard.report.sections.false_positives import FalsePositives
from mmguard.report.sections.maximum_margins import Margins

FEW = 200
"""The page warns if there are fewer clean inputs: the probability that all have p > 0.005 then exceeds one third."""
FEW_PER_CLASS = 10
"""The page warns if the calibration set has fewer inputs per class on average."""


@dataclass(frozen=True)
class Limit:
    """A limit of what the guard can do.

    Attributes:
        title: the limit, in a few words.
        text: explains the limit and what to do about it.
    """

    title: str
    text: str


def own_limits(manifest: Manifest, margins: Margins | None, rate: FalsePositives | None) -> tuple[Limit, ...]:
    """List the limits that are specific to a bundle.

    Args:
        manifest: the bundle's manifest.
        margins: the bundle's maximum margins; None if the search was skipped.
        rate: expected false positives; None if the bundle has no test.

    Returns:
        The limits of the test, then of the calibration set, then of the margins.
    """
    return (*_of_test(manifest, rate), *_of_calibration_set(manifest), *_of_margins(manifest, margins))


def general_limits(manifest: Manifest) -> tuple[Limit, ...]:
    """List the limits that apply to every bundle, including those of the test if the bundle has one.

    Args:
        manifest: the bundle's manifest.

    Returns:
        The limits.
    """
    return (*(GENERAL_TEST if manifest.null is not None else ()), *GENERAL)


def _of_test(manifest: Manifest, rate: FalsePositives | None) -> Iterator[Limit]:
    if rate is None:
        yield NO_TEST
        return
    yield from _of_null(manifest, rate)
    yield from _of_level(manifest, rate)
    yield from _of_disagreement(manifest)
    yield from _of_screen(manifest)


def _of_null(manifest: Manifest, rate: FalsePositives) -> Iterator[Limit]:
    yield HELD_OUT if rate.held_out else IN_SAMPLE
    if manifest.settings.null_power == 1:
        yield PLAIN_NORMAL


def _of_level(manifest: Manifest, rate: FalsePositives) -> Iterator[Limit]:
    theta, floor = rate.theta, 1 / (rate.n + 1)
    if rate.ranked:
        yield Limit(
            "P-values have a lower limit",
            f"P-values are computed from ranks among {count(rate.n, 'input')}, so no p-value is below 1/{rate.n + 1} ≈ "
            f"{floor:.2g}, however unusual the input is.",
        )
        return
    if theta < floor:
        bounded = manifest.null is not None and manifest.null.kind == "bounded"
        means = (
            "an input is therefore flagged only if it scores well above all inputs of the calibration set. At most "
            f"{percent(floor)} of clean inputs score that high, regardless of their distribution, and usually fewer do."
            if bounded
            else "the test relies on the fitted normal distribution alone."
        )
        yield Limit(
            "θ is too low to be checked on the calibration set",
            f"With {count(rate.n, 'input')}, a false-positive rate below 1/{rate.n + 1} = {percent(floor)} cannot be "
            "measured. "
            f"At θ = {level(theta)}, {means}",
        )
    yield Limit(
        "Small p-values are extrapolated",
        f"The calibration set supports p-values down to about 1/{rate.n + 1} ≈ {floor:.2g}. Smaller p-values "
        "show which inputs are more suspicious than others, but they are not measured frequencies.",
    )
    if not rate.nominal_fits:
        have, often = "has" if rate.count == 1 else "have", "more" if rate.share > theta else "fewer"
        yield Limit(
            "θ does not match the calibration set",
            f"{rate.count} of {rate.n} inputs of the calibration set {have} p ≤ θ, {often} than θ predicts. Chance "
            "alone does not explain the difference (95 % confidence). Rely on the observed rate, not on θ.",
        )


def _of_disagreement(manifest: Manifest) -> Iterator[Limit]:
    null, apart = manifest.null, 1 - manifest.calibration.agreement
    assert null is not None, "only bundles with a test have a rate"
    if null.disagreement_theta >= 1:
        yield Limit(
            "Every disagreement is flagged",
            "Every input on which the two networks decide differently is flagged, regardless of its p-value. They "
            f"decide differently on {percent(apart)} of the calibration set.",
        )
    elif null.disagreement_theta > null.theta:
        yield Limit(
            "Disagreements are flagged at a higher level",
            f"An input on which the networks decide differently is flagged at p ≤ {null.disagreement_theta:g}. The "
            "share of clean inputs flagged for either reason may therefore be as high as "
            f"{level(null.disagreement_theta)}.",
        )


def _of_screen(manifest: Manifest) -> Iterator[Limit]:
    null = manifest.null
    assert null is not None, "only bundles with a test have a rate"
    if Screen.of(null.test(), DEFAULT_SHARE) is None:
        yield Limit(
            "No screen",
            "The test does not read the original network's activations, or flags every disagreement. The clipped "
            "network therefore runs on every input, which costs two to three times the model's time.",
        )
        return
    yield Limit(
        "The screen was not measured on this model",
        "By default, the clipped network runs only on inputs that look unusual in the original network. On image "
        "classifiers with known backdoors this lost hardly any flag, but no trigger of this model is known. "
        "--screen 0 runs both networks on every input.",
    )
    if manifest.calibration.n < MIN_OF_CLASS * len(manifest.classes):
        yield Limit(
            "The screen hardly knows some classes",
            f"A class with fewer than {MIN_OF_CLASS} clean inputs is compared with all clean inputs, so the screen "
            "may pass triggers that lead to it. Calibrate with more inputs per class, or use --screen 0.",
        )


def _of_calibration_set(manifest: Manifest) -> Iterator[Limit]:
    figures, classes = manifest.calibration, len(manifest.classes)
    if figures.n < FEW:
        yield Limit(
            "Few clean inputs",
            f"With only {count(figures.n, 'input')}, the tail of the null and the ranges of the activations are "
            "uncertain. The method was designed for 50 inputs per class.",
        )
    if figures.n < FEW_PER_CLASS * classes:
        yield Limit(
            "Few inputs per class",
            f"The calibration set has {figures.n / classes:.1f} inputs per class on average. If a class has very few "
            "inputs in the set, new inputs of that class may be clipped and flagged more often than the averages on "
            "this page suggest.",
        )
    if not figures.labelled:
        yield Limit(
            "The calibration set is unlabelled",
            "The accuracy of both networks is unknown. This page shows how often clipping keeps the original network's "
            "decision, not how often that decision is correct.",
        )


def _of_margins(manifest: Manifest, margins: Margins | None) -> Iterator[Limit]:
    if margins is not None and margins.after > BLIND * margins.before:
        before, after = number(margins.before), number(margins.after)
        what = (
            f"falls only from {before} to {after} logits"
            if margins.after < margins.before
            else f"does not fall (original network: {before} logits; clipped network: {after} logits)"
        )
        yield Limit(
            "Clipping changes little",
            f"When each input is changed separately, the largest margin {what}, so this guard may miss many triggers. "
            "Try more rounds, and check whether the table of clip sites lacks any of the model's activations.",
        )
    if manifest.settings.tolerance and not manifest.calibration.converged:
        yield Limit(
            "Calibration stopped at the maximum number of rounds",
            "The objective was still changing when calibration stopped; more rounds would change the bounds slightly.",
        )


NO_TEST = Limit(
    "No test",
    "This bundle has no null distribution. Its clipped network answers in place of the original, no input is flagged, "
    "and a triggered input raises no warning. MMOM is for overfitted models, not for backdoored ones.",
)

IN_SAMPLE = Limit(
    "The null is in-sample",
    "The null was fitted to the inputs that the bounds were learned from, so it is too narrow, and the false-positive "
    "figures on this page are optimistic. Before you let the guard act on flags, run mmguard scan on clean inputs that "
    "were not used for calibration.",
)

HELD_OUT = Limit(
    "Held-out inputs were tested with slightly different bounds",
    "Each input was tested with bounds that were learned without it. Those bounds differ slightly from the deployed "
    "bounds, so the false-positive figures are approximate.",
)

PLAIN_NORMAL = Limit(
    "The null is a plain normal distribution",
    "With this preset, no power transform is fitted. The statistics of clean inputs are usually skewed to the right; a "
    "test that assumes a normal distribution then flags a larger share of clean inputs than θ.",
)

GENERAL_TEST = (
    Limit(
        "Triggers that look like clean inputs",
        "The test detects triggers because they raise activations above the values that clean inputs reach. A "
        "triggered input is more likely to pass the test if the trigger is faint (for example, a slight warp or blend) "
        "or if the input already resembles the attacker's target class.",
    ),
    Limit(
        "Attackers who know mmguard",
        "Anyone who has this bundle can search for inputs that pass its test. Keep the bundle as secret as the model. "
        "For measurements of such attacks, see docs/threat-model.md in mmguard's repository.",
    ),
    Limit(
        "Flags on clean inputs cost accuracy",
        "When flagged inputs are answered with the corrected label, most false positives get a label that differs "
        "from the original network's label. To avoid this, abstain on flagged inputs or use shadow mode.",
    ),
)

GENERAL = (
    Limit(
        "The calibration set is trusted",
        "The bounds and the null describe this calibration set. Any triggered inputs in the set are treated as "
        "clean. The figures on this page do not apply to inputs of a different kind, such as those from a different "
        "camera, season or customer.",
    ),
    Limit(
        "Only the clip sites are bounded",
        "Activations that are not in the table of clip sites are not clipped. The model's weights are not changed, so "
        "any backdoor in them remains.",
    ),
    Limit(
        "Hashes are not a signature",
        "Anyone who can overwrite the manifest can also change the test and this page. Store the manifest's SHA-256, "
        "which mmguard verify prints, in a different place.",
    ),
)
