"""Write what each kind of evidence adds, how the guard does on features and series, and what reading activations costs.

The sources are the JSONs of `benchmarks.ablation`, `benchmarks.arrays.detect` and `benchmarks.evidence_cost`.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from benchmarks.record import Record
from benchmarks.report.markdown import percent, table

RATE = "0.005"


def ablation(records: Sequence[Record]) -> list[str]:
    """Return the lines on every subset of statistics; none if there are no records."""
    attacked = [record for record in records if "auroc" in record["subsets"]["all"]]
    if not attacked:
        return []
    subsets = list(attacked[0]["subsets"])
    rows = [
        (record["network"], *(_both(record["subsets"][subset]) for subset in subsets))
        for record in sorted(attacked, key=lambda record: (record["network"], record["draw"]))
    ]
    return [
        "",
        "## What each kind of evidence adds",
        "",
        "AUROC, and the share of winning triggered inputs that are caught at 0.5 % false positives, with all "
        "statistics of the test, with one alone, and with one left out.",
        "",
        *table(("network", *(subset.replace("_", " ") for subset in subsets)), rows),
    ]


def _both(figures: Record) -> str:
    return f"{figures['auroc']:.4f} / {percent(figures['true_positive_rate_at'][RATE])}"


def arrays(records: Sequence[Record]) -> list[str]:
    """Return the lines on features and series; none if there are no records."""
    by_network = defaultdict(list)
    for record in records:
        by_network[record["network"]].append(record)
    if not by_network:
        return []
    rows = []
    for name, draws in sorted(by_network.items()):
        won = [record for record in draws if "auroc" in record]
        own, margin = (
            percent(mean(each["true_positive_rate_at"][who] for each in won)) if won else ""
            for who in ("mmguard", "original margin")
        )
        auroc = f"{mean(each['auroc']['mmguard'] for each in won):.4f}" if won else ""
        flagged = percent(mean(each["true_positive_rate"] for each in won)) if won else ""
        clean = [each["false_positive_rate"] for each in draws]
        rows.append((name, str(len(draws)), auroc, own, margin, flagged, percent(mean(clean)), percent(max(clean))))
    head = (
        "network",
        "draws",
        "AUROC",
        "caught at 0.5 %",
        "by the original margin",
        "flagged",
        "clean flagged, mean",
        "largest",
    )
    words = (
        "Means over draws of the calibration set, 50 inputs per class. No part of mmguard was chosen on these networks."
    )
    return ["", "## Features and series", "", words, "", *table(head, rows)]


def cost(record: Record | None) -> list[str]:
    """Return the lines on the cost of reading activations; none if it was not measured."""
    if record is None:
        return []
    batches = list(record["networks"][0]["batches"])
    rows = [
        (
            each["network"],
            *(f"{each['batches'][batch]['ratio']:.3f}" for batch in batches),
            f"{each['original_bytes']:,}",
            f"{each['runtime_bytes'] - each['original_bytes']:,}",
        )
        for each in record["networks"]
    ]
    head = ("network", *(f"batch {batch}" for batch in batches), "model, bytes", "evidence, bytes")
    words = "Time of the original network with its evidence, divided by its time alone: one core, medians of ratios."
    return ["", "## What reading activations costs", "", words, "", *table(head, rows)]
