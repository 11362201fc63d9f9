"""Write the figures in README.md and docs/ from the JSONs of `benchmarks/results/`: `python -m benchmarks.readme`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Record
from benchmarks.report import survey
from benchmarks.report.grid import read
from benchmarks.report.markdown import footnote, percent, table

ROOT = Path(__file__).parent.parent
CIFAR = "cifar10-resnet20-badnets-seed0-default-draw0"


def pair(name: str, values: dict[str, float]) -> tuple[str, str, str]:
    """Make a table row with two figures: without and with the guard."""
    return name, percent(values["without"]), percent(values["with"])


def demo(record: Record) -> list[str]:
    """Write the table that the demo prints at the end."""
    flags = ", ".join(f"{count} {reason}" for reason, count in record["flags"].items())
    rows: list[tuple[str, ...]] = [
        pair("accuracy on plain images", record["accuracy"]),
        pair("attack success", record["attack_success"]),
        pair("triggered images given their true label", record["triggered_accuracy"]),
        ("plain images flagged", "", percent(record["flagged"]["plain"])),
        ("triggered images flagged", "", percent(record["flagged"]["triggered"])),
        ("flags by reason", "", flags),
        (
            "milliseconds per input, one thread per network",
            *(f"{record['milliseconds'][who]:.2f}" for who in ("without", "with")),
        ),
    ]
    images = (
        f"{record['plain_images']} plain and {record['triggered_images']} triggered test images, seed {record['seed']}"
    )
    return [
        *table(("", "without", "with mmguard"), rows),
        "",
        f"{images}; {record['seconds']:.0f} s in total. {footnote(record)}",
    ]


def demo_in_short(record: Record) -> list[str]:
    """Write the four rows of the demo's table that show whether the guard works."""
    rows: list[tuple[str, ...]] = [
        pair("accuracy on plain images", record["accuracy"]),
        pair("attack success", record["attack_success"]),
        ("plain images flagged", "", percent(record["flagged"]["plain"])),
        ("triggered images flagged", "", percent(record["flagged"]["triggered"])),
    ]
    return table(("", "without", "with mmguard"), rows)


def cifar(record: Record) -> list[str]:
    """Write the detection and mitigation figures for CIFAR-10."""
    found, null = record["detection"], record["null"]
    rates = found["false_positive_rate"]
    low, high = found["false_positive_interval_95"]
    milliseconds = [f"{found['milliseconds'][who]:.2f}" for who in ("without", "with")]
    rows: list[tuple[str, ...]] = [
        pair("clean accuracy", found["accuracy"]),
        pair("attack success", found["attack_success"]),
        pair("triggered images given their true label", found["triggered_accuracy"]),
        ("triggered images flagged", "", percent(found["true_positive_rate"]["any"])),
        ("clean images flagged, any reason", "", f"{percent(rates['any'])} (95 %: {percent(low)} to {percent(high)})"),
        *((f"– reason {reason}", "", percent(rates[reason])) for reason in REASONS),
        (f"milliseconds per image, batch {found['milliseconds']['batch']}, one thread per network", *milliseconds),
        ("AUROC of the p-value", "", f"{found['auroc']['mmdf']:.4f}"),
        ("AUROC of the original network's margin alone", f"{found['auroc']['original_margin']:.4f}", ""),
    ]
    plain = percent(found["false_positive_rate_of_a_plain_gaussian"])
    note = (
        f"θ = {null['theta']}, {null['n']} clean images, {record['calibration']['rounds']} rounds, "
        f"{record['calibration_seconds']:.0f} s of calibration. The paper's null, a Gaussian without power transform, "
        f"would flag {plain} of the clean images; its rule of flagging every disagreement would "
        f"flag {percent(found['clean_disagreement'])}. {footnote(record)}"
    )
    return [*table(("", "without", "with mmguard"), rows), "", note]


def trained_against(record: Record) -> list[str]:
    """Write how well the guard detects an attack whose training loss penalised what the guard looks for."""
    rates = record["true_positive_rate_at"]["0.005"]
    rows: list[tuple[str, ...]] = [
        ("AUROC", f"{record['auroc']:.4f}"),
        ("triggered images flagged", percent(record["true_positive_rate"])),
        ("– at 0.5 % false positives", percent(rates)),
        ("clean images flagged", percent(record["false_positive_rate"])),
    ]
    images = (
        f"{record['clean_images']} clean images and {record['winning_images']} triggered images "
        "that get the attacker's label"
    )
    return [*table(("", record["attack"]), rows), "", f"{images}. {footnote(record)}"]


def searched(record: Record) -> list[str]:
    """Write how often attacks on the guard itself succeed."""
    rows = [
        (
            name,
            percent(found["attack_success"]["without"]),
            percent(found["attack_success"]["with"]),
            percent(found["flagged"]),
        )
        for name, found in record["shapes"].items()
    ]
    head = ("what the attacker changes", "success without guard", "success with guard", "flagged")
    return [*table(head, rows), "", f"`{record['network']}`, {record['images']} images. {footnote(record)}"]


Render = Callable[[Any], list[str]]
"""Formats one JSON file, or all JSON files of a folder, as lines of Markdown."""

REASONS = ("confidence", "both", "activations", "margin", "disagreement")
FIGURES: dict[str, dict[str, tuple[str, Render]]] = {
    "README.md": {"demo": ("demo", demo_in_short)},
    "docs/results.md": {"demo": ("demo", demo), "cifar": (CIFAR, cifar)},
    "docs/threat-model.md": {
        "trained": ("detection/cifar10-resnet20-guard_aware-seed0-MMDF-50-draw0", trained_against),
        "trained-distances": ("detection/cifar10-resnet20-distance_aware-seed0-MMDF-50-draw0", trained_against),
        "searched": ("adaptive/cifar10-resnet20-none-seed0", searched),
        "searched-badnets": ("adaptive/cifar10-resnet20-badnets-seed0", searched),
    },
    "docs/models.md": {"survey": ("survey", survey.section)},
}


def filled(document: str) -> str:
    """Return a document's text with its marked blocks regenerated."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for name, (file, render) in FIGURES[document].items():
        folder = RESULTS / file
        found = read(folder) if folder.is_dir() else json.loads((RESULTS / f"{file}.json").read_text())
        lines = "\n".join(render(found))
        start, rest = text.split(f"<!-- figures: {name} -->\n")
        text = f"{start}<!-- figures: {name} -->\n{lines}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return text


def main() -> None:
    """Rewrite the marked blocks of each document."""
    for document in FIGURES:
        (ROOT / document).write_text(filled(document), encoding="utf-8")


if __name__ == "__main__":
    main()
