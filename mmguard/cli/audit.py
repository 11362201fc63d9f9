"""`mmguard audit`: judge whether the original network of a bundle is backdoored."""

from collections.abc import Sequence
from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, FOUND, NO_VERDICT, app
from mmguard.cli.console import safe_lines
from mmguard.detection.audit import LEVEL, ORTHOGONAL, Audit
from mmguard.errors import AuditError

SHOWN_CLASSES = 10
"""Maximum number of classes whose margins are shown."""


@app.command
def audit(bundle: Path) -> int:
    """Judge whether a bundle's original network is backdoored, and which class the backdoor targets.

    Exits with code 3 if the test for a backdoor is significant at the 5 % level. Exits with code 4 if there is no
    verdict, because the bundle was calibrated with --no-audit or too few --audit-minutes, or because the model has only
    two classes and too few clean inputs of one of them.

    Parameters
    ----------
    bundle
        Folder of the guard bundle.
    """
    opened = Bundle.open(bundle)
    try:
        found = opened.audit()
    except AuditError as error:
        print(f"no verdict: {error}")
        return NO_VERDICT
    print(describe_audit(found, opened.manifest.classes))
    return FOUND if found.backdoored else DONE


def describe_audit(audit: Audit, classes: Sequence[str]) -> str:
    """Return a description of an audit: verdict, p-values, and the largest margins at the most significant scale.

    Args:
        audit: the audit.
        classes: class names in the order of the outputs.
    """
    scale = audit.scales[audit.scale]
    rows = sorted(zip(classes, scale.margins.tolist(), strict=True), key=lambda row: -row[1])
    shown = [f"  {margin:8.1f}  {name}" for name, margin in rows[:SHOWN_CLASSES]]
    hidden = len(rows) - len(shown)
    unit = "divided by the mean margin of the class's clean inputs" if audit.scale == ORTHOGONAL else "in logits"
    verdict = f"backdoored, target class {classes[audit.suspect]}" if audit.backdoored else "no sign of a backdoor"
    return safe_lines(
        (
            f"scale {audit.scale}: mean of the largest margins found, per class, {unit}:",
            *shown,
            *([f"  and {hidden} more classes with smaller margins"] if hidden else []),
            *_left_out(audit, classes),
            *_cut(audit),
            "p-value by scale: " + ", ".join(f"{name} {each.p_value:.2g}" for name, each in audit.scales.items()),
            f"{verdict}: p {audit.p_value:.2g} over all scales (p ≤ {LEVEL} means backdoored)",
        )
    )


def _left_out(audit: Audit, classes: Sequence[str]) -> list[str]:
    return [
        f"classes left out at scale {name}, with margins far below those of the other classes: "
        + ", ".join(classes[label] for label in each.left_out)
        for name, each in audit.scales.items()
        if each.left_out
    ]


def _cut(audit: Audit) -> list[str]:
    if not audit.cut:
        return []
    return [
        f"the time was too short for all of the search; shortened or left out: {', '.join(audit.cut)}; "
        "calibrate with more --audit-minutes to find more backdoors"
    ]
