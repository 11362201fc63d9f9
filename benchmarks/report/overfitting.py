"""Write the paper's Tables 2 to 5, over-training, costs and figures from the JSONs of `benchmarks.overfitting`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.overfitting_grid import EPOCHS, MMOM_WEIGHT, MMOM_WEIGHTS, NETWORK, OVERTRAINED, PER_CLASS
from benchmarks.record import Record
from benchmarks.report import plots
from benchmarks.report.grid import average, spread
from benchmarks.report.markdown import table
from benchmarks.training.imbalance import PROFILES

IMBALANCES = tuple(name for name in PROFILES if name != "balanced")
TABLE_2 = ("CE", "mixup", "GCL", "CE + MMOM", "GCL + MMOM")
TABLE_4 = ("CE", "CE + MMAC")
TABLE_5 = ("CE", "CE + MMOM")

Key = tuple[str, str, str, int, float | None]
"""Data set, profile, method, epochs, λ of MMOM."""


class Overfitted:
    """Records by data set, profile, method, epochs and λ; those of several seeds have the same key."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._cells: dict[Key, list[Record]] = {}
        for record in records:
            method = record["objective"] + ("" if record["mitigation"] == "none" else f" + {record['mitigation']}")
            key = (record["data"], record["profile"], method, record["epochs"], record["weight"])
            self._cells.setdefault(key, []).append(record)

    def records(
        self, data: str, profile: str, method: str, epochs: int = EPOCHS, weight: float = MMOM_WEIGHT
    ) -> list[Record]:
        """Return the records of every seed. Without MMOM, λ is None; by default it is that of the tables."""
        return self._cells.get((data, profile, method, epochs, weight if "MMOM" in method else None), [])

    def accuracy(self, data: str, profile: str, method: str, epochs: int = EPOCHS, weight: float = MMOM_WEIGHT) -> str:
        """Format the accuracy in per cent, mean ± standard deviation over the seeds."""
        return spread(record["accuracy"] for record in self.records(data, profile, method, epochs, weight))


def section(records: Sequence[Record], paper: Record, folder: Path) -> list[str]:
    """Return all lines, and write figures 1 and 2 to the folder."""
    ours = Overfitted(record for record in records if record["architecture"] == NETWORK)
    lines = ["", "## Overfitting without a backdoor, ResNet-32", "", "Accuracy on clean test images, %."]
    lines += ["", "### Table 2: rare classes", "", *imbalance_table(ours, TABLE_2, paper["table_2"])]
    lines += ["", "### Table 3: λ of MMOM, CIFAR-10, LT-100", "", *weight_table(ours, paper["table_3"])]
    lines += ["", "### Table 4: MMAC without a backdoor", "", *imbalance_table(ours, TABLE_4, paper["table_4"])]
    lines += ["", "### Table 5: balanced data", "", *balanced_table(ours, paper["table_5"])]
    lines += ["", "### Section 4.3: over-training, CIFAR-10, LT-100", "", *epochs_table(ours, paper["over_training"])]
    lines += ["", "### Section 4.4: seconds, CIFAR-10, LT-100", "", *seconds_table(ours, paper["seconds"])]
    return lines + figures(ours, folder) + small([record for record in records if record["architecture"] != NETWORK])


def small(records: Sequence[Record]) -> list[str]:
    """List smaller networks with shorter training: accuracy before and after MMOM in per cent, and the gain."""
    trained = sorted({(record["architecture"], record["epochs"]) for record in records})
    rows = []
    for architecture, epochs in trained:
        ours = Overfitted(record for record in records if record["architecture"] == architecture)
        for profile in PROFILES:
            before, after = (ours.records("cifar10", profile, name, epochs) for name in TABLE_5)
            if before and after:
                figures = [100 * average_of(found) for found in (before, after)]
                row = (f"{figure:.2f}" for figure in figures)
                rows.append((architecture, str(epochs), profile, *row, f"{figures[1] - figures[0]:+.2f}"))
    if not rows:
        return []
    heading = ["", "### MMOM on CIFAR-10, smaller networks and shorter training", ""]
    return heading + table(("network", "epochs", "profile", *TABLE_5, "gain"), rows)


def average_of(records: Sequence[Record]) -> float:
    """Return the mean accuracy."""
    return float(mean(record["accuracy"] for record in records))


def imbalance_table(ours: Overfitted, methods: Sequence[str], paper: Mapping[str, Record]) -> list[str]:
    """List methods by data set and profile, with the paper's figures above ours."""
    columns = [(data, profile) for data in PER_CLASS for profile in IMBALANCES]
    rows = []
    for method in methods:
        rows.append((method, "paper", *(f"{paper[method][data][profile]:.2f}" for data, profile in columns)))
        rows.append((method, "ours", *(ours.accuracy(data, profile, method) for data, profile in columns)))
    return table(("", "", *(f"{data} {profile}" for data, profile in columns)), rows)


def weight_table(ours: Overfitted, paper: Mapping[str, float]) -> list[str]:
    """List the accuracy by λ."""
    mine = (ours.accuracy("cifar10", "LT-100", "CE + MMOM", weight=weight) for weight in MMOM_WEIGHTS)
    rows = [("paper", *(f"{value:.2f}" for value in paper.values())), ("ours", *mine)]
    return table(("λ", *(f"{weight:g}" for weight in MMOM_WEIGHTS)), rows)


def balanced_table(ours: Overfitted, paper: Mapping[str, Mapping[str, float]]) -> list[str]:
    """List the accuracy on the unchanged data sets."""
    rows = []
    for method in TABLE_5:
        rows.append((method, "paper", *(f"{paper[method][data]:.2f}" for data in PER_CLASS)))
        rows.append((method, "ours", *(ours.accuracy(data, "balanced", method) for data in PER_CLASS)))
    return table(("", "", *PER_CLASS), rows)


def epochs_table(ours: Overfitted, paper: Mapping[str, float]) -> list[str]:
    """List the accuracy after the usual number of epochs, after five times as many, and with MMOM after these."""
    trained = (("CE", EPOCHS), ("CE", OVERTRAINED), ("CE + MMOM", OVERTRAINED))
    mine = (ours.accuracy("cifar10", "LT-100", method, epochs) for method, epochs in trained)
    rows = [("paper", *(f"{value:.2f}" for value in paper.values())), ("ours", *mine)]
    return table(("", *(f"{name} epochs" if name.isdigit() else name for name in paper)), rows)


def seconds_table(ours: Overfitted, paper: Mapping[str, float]) -> list[str]:
    """List the seconds of training with each objective, and of each mitigation."""
    mine = []
    for name in paper:
        trained = name in ("CE", "mixup", "GCL")
        records = ours.records("cifar10", "LT-100", name if trained else f"CE + {name}")
        mine.append(average(record["training_seconds" if trained else "mitigation_seconds"] for record in records))
    rows = [("paper, RTX-3090", *(f"{value:.0f}" for value in paper.values())), ("ours", *mine)]
    return table(("", *paper), rows)


def figures(ours: Overfitted, folder: Path) -> list[str]:
    """Plot the accuracy by class as in figures 1 and 2, for the first seed and every network that was trained."""
    panels = {profile: {name: ours.records("cifar10", profile, name) for name in TABLE_5} for profile in IMBALANCES}
    panels["LT-100, over-trained"] = {
        name: ours.records("cifar10", "LT-100", name, epochs=OVERTRAINED) for name in TABLE_5
    }
    panels["LT-100 by λ"] = {
        f"MMOM, λ = {weight:g}": ours.records("cifar10", "LT-100", "CE + MMOM", weight=weight)
        for weight in MMOM_WEIGHTS
    }
    drawn = {title: {name: found[0] for name, found in panel.items() if found} for title, panel in panels.items()}
    drawn = {title: panel for title, panel in drawn.items() if panel}
    if not drawn:
        return []
    accuracies = {
        title: {name: record["per_class_accuracy"] for name, record in panel.items()} for title, panel in drawn.items()
    }
    sizes = {title: next(iter(panel.values()))["class_sizes"] for title, panel in drawn.items()}
    plots.per_class(accuracies, sizes, folder / "per-class.svg")
    return ["", "![Accuracy by class, and training images of each class](plots/per-class.svg)"]
