"""Write what is measured on mmguard alone: false positives over draws, the objective of Eq. 4, adaptive attacks."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from benchmarks.record import Record
from benchmarks.report.markdown import percent, table


def false_positives(detected: Sequence[Record]) -> list[str]:
    """List the share of clean images that the preset `default` flags at its θ of 0.5 %, over draws."""
    rates = defaultdict(list)
    for record in detected:
        if record["method"] == "MMDF" and record["per_class"] == 50:
            rates[record["network"]].append(record["false_positive_rate"])
    if not rates:
        return []
    every = [rate for of_network in rates.values() for rate in of_network]
    rows = [(name, str(len(each)), percent(mean(each)), percent(max(each))) for name, each in sorted(rates.items())]
    rows.append(("all runs", str(len(every)), percent(mean(every)), percent(max(every))))
    lines = [
        "",
        "## Clean images flagged by mmguard, for any reason",
        "",
        "θ is 0.5 %. Each run has its own draw of the calibration set.",
    ]
    return [*lines, "", *table(("network", "draws", "mean", "largest"), rows)]


def held_out(records: Sequence[Record]) -> list[str]:
    """List detection on networks of other seeds, targets, architectures, and of attackers who know the guard."""
    rows = [
        (
            record["network"],
            record["method"],
            f"{record['auroc']:.4f}",
            percent(record["true_positive_rate_at"]["0.005"]),
            percent(record["true_positive_rate_at_where_the_trigger_decides"]["0.005"]),
            percent(record["true_positive_rate"]),
            percent(record["false_positive_rate"]),
        )
        for record in records
    ]
    if not rows:
        return []
    head = ("network", "detector", "AUROC", "caught at 0.5 %", "where the trigger decides", "flagged", "clean flagged")
    words = "No part of mmguard was chosen on these networks. The fifth column leaves out inputs that get the "
    words += "attacker's label even without the trigger."
    return ["", "## Networks that were never looked at", "", words, "", *table(head, rows)]


def objective(records: Sequence[Record]) -> list[str]:
    """List the value of Eq. 4 that each preset reaches."""
    rows = []
    for record in records:
        for preset, found in record["presets"].items():
            numbers = (f"{found['fit']:.3f}", f"{found['margin']:.2f}", f"{found['objective']:.3f}")
            seconds = (f"{found[key]:.0f}" for key in ("bounds_seconds", "seconds"))
            parts = ", ".join(f"{name} {value:.2f}" for name, value in found["margin_by_search"].items())
            rows.append((record["network"], preset, *seconds, *numbers, parts))
    if not rows:
        return []
    head = (
        "network",
        "preset",
        "bounds, s",
        "whole calibration, s",
        "change of the logits",
        "margin",
        "Eq. 4",
        "margin by search",
    )
    words = f"λ = {records[0]['weight']:g}. Margins are found by independent searches: the largest of three per class."
    return ["", "## Eq. 4: the value that each preset reaches, and how fast", "", words, "", *table(head, rows)]


def adaptive(records: Sequence[Record]) -> list[str]:
    """List attacks by someone who has the bundle."""
    rows = [
        (
            record["network"],
            name,
            *(percent(found["attack_success"][who]) for who in ("without", "with")),
            percent(found["flagged"]),
        )
        for record in records
        for name, found in record["shapes"].items()
    ]
    if not rows:
        return []
    head = ("network", "what the attacker changes", "success without", "success with mmguard", "flagged")
    return ["", "## Attacks by someone who has the bundle", "", *table(head, rows)]
