"""Write `benchmarks/RESULTS.md` and its plots from the JSONs: `make tables`.

The paper's figures are in separate rows above ours. Cells that were not run stay empty.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks import (
    ablation,
    adaptive,
    audit,
    defences,
    detection,
    detectors,
    evidence_cost,
    guard_cost,
    mitigation,
    objective,
    overfitting,
    screening,
    small_sets,
)
from benchmarks.arrays import detect as arrays_detect
from benchmarks.cells import PER_CLASS
from benchmarks.defences import DEFENCES
from benchmarks.detectors import DETECTORS
from benchmarks.record import Record
from benchmarks.report import audit as audit_report
from benchmarks.report import evidence as evidence_report
from benchmarks.report import guard as guard_report
from benchmarks.report import overfitting as overfitting_report
from benchmarks.report import plots
from benchmarks.report import screening as screening_report
from benchmarks.report import small_sets as small_sets_report
from benchmarks.report.grid import Grid, average, read, spread
from benchmarks.report.markdown import footnote, percent, table
from benchmarks.suspect import ZOO

HERE = Path(__file__).parent
TARGET, PLOTS = HERE / "RESULTS.md", HERE / "plots"
UNSEEN_ARCHITECTURES = ("mobilenetv2_035", "vit64_4")
"""Architectures on whose networks no part of mmguard was chosen."""

TABLE_1 = ("chessboard", "badnets", "blend", "wanet", "input_aware", "clean_label", "none")
"""The columns of the paper's Table 1."""
MITIGATION = {
    "clean_accuracy": ("ACC", "accuracy on clean test images, %"),
    "attack_success": ("ASR", "triggered test images that get the attacker's label, %"),
    "triggered_accuracy": ("PACC", "triggered test images that get their true label, %"),
}
DETECTION = {
    ("auroc",): "AUROC, %",
    (
        "auroc_of_all_triggered",
    ): "AUROC over all triggered inputs, including those that do not get the attacker's label, %",
    ("true_positive_rate_at", "0.005"): "true positives at 0.5 % false positives, %",
    ("true_positive_rate_at", "0.01"): "true positives at 1 % false positives, %",
    (
        "false_positive_rate",
    ): "clean inputs flagged by the detector's own rule, set to 0.5 % if the rule takes a rate, %",
    ("true_positive_rate",): "true positives by the detector's own rule, %",
}
CHECKED_ON = ("resnet20", "badnets")
"""Architecture and attack of the network on which the peers are compared with their papers."""


def zoo_table(folders: Mapping[str, Sequence[Record]]) -> list[str]:
    """List each network of the zoo, given by folder, with its recipe, accuracy and attack success."""
    rows = []
    for folder, record in ((folder, record) for folder, records in folders.items() for record in records):
        recipe, success, rate = record["recipe"], record["attack_success"], record["attack"]["rate"]
        rows.append(
            (
                f"[{record['name']}]({folder}/{record['name']}.json)",
                f"{recipe['epochs']} epochs, {recipe.get('precision', 'float32')}",
                percent(rate) if rate else "",
                percent(record["clean_accuracy"]),
                "" if success is None else percent(success),
            )
        )
    return table(("network", "recipe", "poisoned", "clean accuracy", "attack success"), rows)


def mitigation_table(grid: Grid, architecture: str, attacks: Sequence[str], figure: str, paper: Record) -> list[str]:
    """List one figure of every defence under every attack, the paper's above ours; `paper` may be empty."""
    rows: list[tuple[str, ...]] = []
    for name, make in DEFENCES.items():
        if name in paper:
            published = paper[name][MITIGATION[figure][0]]
            rows.append((name, "paper", _images(paper[name]["images"]), *(published[each] or "" for each in attacks)))
        own = make().per_class
        for per_class in dict.fromkeys((PER_CLASS, own or PER_CLASS)):
            cells = (spread(grid.seeds(architecture, attack, name, per_class, figure)) for attack in attacks)
            rows.append((name, "ours", _images(per_class if own else None), *cells))
    return table(("defence", "", "images per class", *attacks), rows)


def _images(count: int | None) -> str:
    return str(count or "")


def mitigation_section(grid: Grid, architecture: str, beyond: Sequence[str], paper: Record) -> list[str]:
    """Write Table 1 figure by figure, the attacks beyond it, and the seconds that each defence took."""
    lines = ["", f"## Mitigation, {architecture}", "", f"Rows of the paper: Table 1 of {paper['source']}"]
    for figure, (short, words) in MITIGATION.items():
        lines += ["", f"### {short}: {words}", ""]
        lines += mitigation_table(grid, architecture, TABLE_1, figure, paper["table_1"])
    for figure, (short, words) in MITIGATION.items():
        lines += ["", f"### {short} beyond the six attacks: {words}", ""]
        lines += mitigation_table(grid, architecture, beyond, figure, {})
    attacks = (*TABLE_1, *beyond)
    rows = [
        (name, *(average(grid.seeds(architecture, attack, name, PER_CLASS, "seconds")) for attack in attacks))
        for name in DEFENCES
    ]
    return [*lines, "", "### Seconds, 50 images per class", "", *table(("defence", *attacks), rows)]


def detection_section(grid: Grid, architecture: str, attacks: Sequence[str]) -> list[str]:
    """Write every figure of every detector under every attack, and the plots."""
    lines = [
        "",
        f"## Detection, {architecture}",
        "",
        "Only triggered inputs that get the attacker's label count, unless a table says otherwise.",
    ]
    for path, words in DETECTION.items():
        rows = [
            (name, str(images), *(spread(grid.seeds(architecture, attack, name, images, *path)) for attack in attacks))
            for name, make in DETECTORS.items()
            for images in dict.fromkeys((PER_CLASS, make().per_class or PER_CLASS))
        ]
        head = ("detector", "images per class", *attacks)
        lines += ["", f"### {words[0].upper()}{words[1:]}", "", *table(head, rows)]
    return lines + plots_of(grid, architecture, attacks)


def plots_of(grid: Grid, architecture: str, attacks: Sequence[str]) -> list[str]:
    """Plot the ROC curves of all detectors and the scores of clean and triggered inputs; return the lines with them.

    Of several seeds or draws, only the first is plotted.
    """

    def first(attack: str, name: str, key: str) -> Record | None:
        records = grid.records_of(architecture, attack, name, PER_CLASS)
        return records[0].get(key) if records else None

    curves = {
        attack: {name: curve for name in DETECTORS if (curve := first(attack, name, "curve"))} for attack in attacks
    }
    scores = {attack: counts for attack in attacks if (counts := first(attack, "MMDF", "histogram"))}
    lines = []
    if drawn := {attack: each for attack, each in curves.items() if each}:
        plots.roc(drawn, PLOTS / f"roc-{architecture}.svg")
        lines += ["", f"![ROC curves](plots/roc-{architecture}.svg)"]
    if scores:
        plots.histograms(scores, "score, standard deviations", PLOTS / f"scores-{architecture}.svg")
        lines += ["", f"![Scores of clean and triggered inputs](plots/scores-{architecture}.svg)"]
    return lines


def cost_table(records: Sequence[Record]) -> list[str]:
    """List what each detector costs: forward passes, and the median seconds to fit it to 50 images per class."""
    rows = []
    for name, make in DETECTORS.items():
        mine = [record for record in records if record["method"] == name and record["per_class"] == PER_CLASS]
        fitting = f"{median(each['fit_seconds'] for each in mine):.1f}" if mine else ""
        images = str(max(each["clean_images"] for each in mine)) if mine else ""
        rows.append((name, f"{make().forwards:g}", fitting, images))
    return table(("detector", "forward passes per input", "fitting, s", "clean images measured"), rows)


def published_table(mitigated: Grid, detected: Grid) -> list[str]:
    """List figures that the peers' papers report next to ours on the BadNets network."""
    rows = []
    for grid, published in ((mitigated, defences.PUBLISHED), (detected, detectors.PUBLISHED)):
        for name, experiment in published.items():
            own = (DEFENCES if grid is mitigated else DETECTORS)[name]().per_class or PER_CLASS
            for figure, value in experiment.figures.items():
                before = figure.endswith("_before")
                method, images = ("without", PER_CLASS) if before else (name, own)
                ours = grid.seeds(*CHECKED_ON, method, images, *figure.removesuffix("_before").split("/"))
                source = experiment.source + (" (from memory)" if experiment.from_memory else "")
                words = figure.replace("_", " ").replace("/", " ")
                rows.append((name, experiment.setting, words, spread([value]), spread(ours), source))
    return table(("peer", "setting of its paper", "figure", "paper, %", "ours, %", "source"), rows)


def _unseen(record: Record) -> bool:
    """Return whether no part of mmguard was chosen on a network."""
    other = "-target" in record["network"] or record["attack"] == "distance_aware"
    return other or record["architecture"] in UNSEEN_ARCHITECTURES


def page() -> list[str]:
    """Return the lines of RESULTS.md, and write the plots."""
    paper = json.loads((HERE / "paper.json").read_text())
    zoo, arrays = read(ZOO), read(ZOO / "arrays")
    cells = read(detection.FOLDER)
    unseen = [record for record in cells if _unseen(record)]
    mitigated, detected = Grid(read(mitigation.FOLDER)), Grid([record for record in cells if record not in unseen])
    beyond = sorted({record["recipe"]["attack"] for record in zoo} - set(TABLE_1))
    lines = [
        "# Results",
        "",
        "`make tables` writes this page from `benchmarks/zoo/` and `benchmarks/results/`. The form of the preset "
        "`default` was chosen after seeing figures of the ResNet-20 networks of seed 0: its penalty and the statistics "
        "of logits under badnets, chessboard, wanet and input_aware; the statistics of activations, their features and "
        "their shrinkage under these and adaptive_blend, sig, source_specific, badnets_all_to_all and clean_label; the "
        "level of the screen under all of these but the last two. No other network was looked at. All other methods "
        "have the settings of their papers.",
        "",
        "## The zoo",
        "",
    ]
    lines += zoo_table({"zoo": zoo, "zoo/arrays": arrays})
    for architecture in sorted({record["architecture"] for grid in (mitigated, detected) for record in grid.records}):
        lines += mitigation_section(mitigated, architecture, beyond, paper)
        lines += detection_section(detected, architecture, (*TABLE_1, *beyond))
    audited, objectives, attacked = (read(folder) for folder in (audit.FOLDER, objective.FOLDER, adaptive.FOLDER))
    lines += guard_report.held_out(unseen)
    lines += guard_report.false_positives(detected.records)
    ablated, guarded = read(ablation.FOLDER), read(arrays_detect.FOLDER)
    cost = json.loads(evidence_cost.PATH.read_text()) if evidence_cost.PATH.is_file() else None
    lines += evidence_report.ablation(ablated)
    lines += evidence_report.arrays(guarded)
    lines += evidence_report.cost(cost)
    lines += screening_report.screening(read(screening.FOLDER))
    lines += screening_report.guard_cost(json.loads(guard_cost.PATH.read_text()) if guard_cost.PATH.is_file() else None)
    lines += guard_report.objective(objectives)
    lines += guard_report.adaptive(attacked)
    lines += audit_report.section(audited)
    small = json.loads(small_sets.PATH.read_text()) if small_sets.PATH.is_file() else None
    lines += small_sets_report.section(small) if small else []
    lines += ["", "## What a detector costs", "", *cost_table(detected.records)]
    lines += ["", "## The peers compared with their papers", "", *published_table(mitigated, detected)]
    overfitted = read(overfitting.FOLDER)
    lines += overfitting_report.section(overfitted, paper, PLOTS)
    measured = (*zoo, *arrays, *mitigated.records, *cells, *audited, *objectives, *attacked, *overfitted)
    measured += (*ablated, *guarded, *((small,) if small else ()), *((cost,) if cost else ()))
    machines = sorted({footnote(record) for record in measured})
    return [*lines, "", "## Measured on", "", *(f"- {machine}" for machine in machines)]


def main() -> None:
    """Write RESULTS.md and its plots."""
    TARGET.write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
