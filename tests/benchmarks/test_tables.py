import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    adaptive,
    audit,
    defences,
    detection,
    detectors,
    mitigation,
    objective,
    overfitting,
    small_sets,
    tables,
)
from benchmarks.published import Published
from benchmarks.report import grid

ENVIRONMENT = {
    "hardware": {"cpu": "CPU", "cores": 2},
    "versions": {"python": "3.11", "torch": "2", "onnxruntime": "1"},
}


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record | ENVIRONMENT))


def network(attack: str, seed: int, success: float | None) -> dict[str, Any]:
    recipe = {"network": "resnet20", "attack": attack, "epochs": 10, "precision": "bfloat16"}
    name, rate = f"{attack}-{seed}", {"rate": 0.0 if attack == "none" else 0.05}
    figures = {"clean_accuracy": 0.8626, "attack_success": success}
    return {"name": name, "recipe": recipe, "attack": rate, "seed": seed} | figures


def cell_of(attack: str, seed: int) -> dict[str, Any]:
    return {"network": f"{attack}-{seed}", "architecture": "resnet20", "attack": attack, "seed": seed}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tables, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(tables, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(mitigation, "FOLDER", tmp_path / "mitigation")
    monkeypatch.setattr(detection, "FOLDER", tmp_path / "detection")
    monkeypatch.setattr(overfitting, "FOLDER", tmp_path / "overfitting")
    monkeypatch.setattr(audit, "FOLDER", tmp_path / "audit")
    monkeypatch.setattr(objective, "FOLDER", tmp_path / "objective")
    monkeypatch.setattr(adaptive, "FOLDER", tmp_path / "adaptive")
    monkeypatch.setattr(small_sets, "PATH", tmp_path / "small" / "sets.json")
    by_null = {"auto": {"mean": 0.004}, "gaussian": {"mean": 0.021}}
    write(small_sets.PATH, {"theta": 0.005, "draws": 100, "shares": {"Gaussian": {"50": by_null}}})
    seconds = {"seconds": 61.2, "bounds_seconds": 12.6}
    reached = {"fit": 0.5, "margin": 20.0, "objective": 2.5, "margin_by_search": {"shared": 3.0}} | seconds
    write(tmp_path / "objective" / "0.json", {"network": "badnets-0", "weight": 0.1, "presets": {"default": reached}})
    attacked = {"attack_success": {"without": 1.0, "with": 0.75}, "flagged": 0.25}
    write(tmp_path / "adaptive" / "0.json", {"network": "none-0", "shapes": {"patch of 3 × 3": attacked}})
    for attack, targets, p_value in (("badnets", [0], 0.001), ("none", [], 0.5)):
        verdict = {"targets": targets, "backdoored": p_value < 0.05, "suspect": 0, "right": True, "scale": "pixels"}
        figures = {"draw": 0, "p_value": p_value, "p_value_of_others": 0.5, "search_seconds": 40.2}
        write(tmp_path / "audit" / f"{attack}.json", cell_of(attack, 0) | verdict | figures)
    for attack, seed, success in (("badnets", 0, 1.0), ("badnets", 1, 0.9), ("none", 0, None), ("sig", 0, 0.5)):
        write(tmp_path / "zoo" / f"{attack}-{seed}.json", network(attack, seed, success))
    write(tmp_path / "zoo" / "arrays" / "tone-0.json", network("tone", 0, 0.9) | {"name": "tone-0"})
    unmeasured = network("badnets", 0, 1.0)
    unmeasured["recipe"]["network"] = "vit64_4"
    write(tmp_path / "zoo" / "vit-0.json", unmeasured | {"name": "vit-0"})
    for seed, success in ((0, 0.01), (1, 0.03)):
        cell = cell_of("badnets", seed) | {"method": "NC", "per_class": 50, "seconds": 10 + seed}
        figures = {"clean_accuracy": 0.85, "attack_success": success, "triggered_accuracy": 0.8}
        write(tmp_path / "mitigation" / f"{seed}.json", cell | figures)
    cell = cell_of("none", 0) | {"method": "NC", "per_class": 50, "seconds": 9}
    write(tmp_path / "mitigation" / "none.json", cell | {"clean_accuracy": 0.5, "attack_success": None})
    scores = {"edges": [0, 1, 2], "clean": [5, 1], "triggered": [0, 4]}
    write(
        tmp_path / "detection" / "0.json",
        cell_of("badnets", 0)
        | {"method": "MMDF", "per_class": 50, "auroc": 0.875, "histogram": scores}
        | {"curve": {"false_positive_rate": [0.0, 1.0], "true_positive_rate": [0.5, 1.0]}, "clean_images": 6}
        | {"fit_seconds": 3.0, "false_positive_rate": 0.01},
    )
    published = Published(
        "Their paper, table 9", "CIFAR-10", {"attack_success": 0.1, "attack_success_before": 1.0}, True
    )
    monkeypatch.setattr(defences, "PUBLISHED", {"NC": published})
    monkeypatch.setattr(detectors, "PUBLISHED", {})
    return "\n".join(tables.page())


def row(page: str, heading: str, *begins: str) -> list[str]:
    """The cells of the first row below a heading that begins with these."""
    lines = page[page.index(heading) :].splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return next(found for found in cells if tuple(found[: len(begins)]) == begins)


def test_mean_and_deviation_over_the_seeds(page: str) -> None:
    assert row(page, "### ASR", "NC", "ours", "50") == ["NC", "ours", "50", "", "2.00 ± 1.41", "", "", "", "", ""]
    assert row(page, "### ACC", "NC", "ours", "50")[4:] == ["85.00 ± 0.00", "", "", "", "", "50.00"]


def test_the_paper_stands_above_and_what_was_not_run_stays_empty(page: str) -> None:
    assert row(page, "### ASR", "NC", "paper")[2:5] == ["500", "63.72 ± 27.20", "28.13 ± 19.43"]
    assert row(page, "### ASR", "NC", "ours", "500")[3:] == [""] * 7
    assert row(page, "### ASR", "MMDF", "ours")[3:] == [""] * 7


def test_attacks_beyond_table_1_have_tables_of_their_own(page: str) -> None:
    assert "| defence |  | images per class | sig |" in page[page.index("beyond the six attacks") :]


def test_the_zoo_is_listed(page: str) -> None:
    assert row(page, "## The zoo", "[sig-0](zoo/sig-0.json)")[1:] == [
        "10 epochs, bfloat16",
        "5.0 %",
        "86.3 %",
        "50.0 %",
    ]
    assert row(page, "## The zoo", "[none-0](zoo/none-0.json)")[-1] == ""
    assert row(page, "## The zoo", "[tone-0](zoo/arrays/tone-0.json)")[-1] == "90.0 %"


def test_an_architecture_without_cells_is_only_listed(page: str) -> None:
    assert "[vit-0](zoo/vit-0.json)" in page
    assert "## Mitigation, resnet20" in page
    assert "## Mitigation, vit64_4" not in page


def test_detection_and_cost(page: str) -> None:
    assert row(page, "### AUROC", "MMDF", "50")[3] == "87.50"
    assert row(page, "### AUROC", "STRIP", "200")[2:] == [""] * 8
    assert row(page, "## What a detector costs", "MMDF")[1:] == ["2", "3.0", "6"]
    assert row(page, "## What a detector costs", "STRIP")[2:] == ["", ""]


def test_verdicts_of_the_audit(page: str) -> None:
    assert "right 2 of 2" in page
    assert row(page, "## Is a network", "badnets-0", "0")[2:5] == ["0", "backdoored, target 0", "right"]
    assert row(page, "## Is a network", "none-0", "0")[2:] == [
        *("none", "no sign of a backdoor", "right", "pixels", "0.5", "", "40")
    ]


def test_what_is_of_mmguard_alone(page: str) -> None:
    assert row(page, "## Clean images flagged", "badnets-0")[1:] == ["1", "1.0 %", "1.0 %"]
    assert row(page, "## Clean images flagged", "all runs")[1:] == ["1", "1.0 %", "1.0 %"]


def test_small_clean_sets_show_the_chosen_null_beside_the_fit(page: str) -> None:
    assert row(page, "## Small calibration sets", "Gaussian")[1:] == ["0.40 (2.10)"]
    assert row(page, "## Eq. 4", "badnets-0", "default")[2:] == ["13", "61", "0.500", "20.00", "2.500", "shared 3.00"]
    assert row(page, "## Attacks by", "none-0", "patch of 3 × 3")[2:] == ["100.0 %", "75.0 %", "25.0 %"]


def test_peers_stand_beside_their_papers(page: str) -> None:
    after = row(page, "## The peers", "NC", "CIFAR-10", "attack success")
    assert after[3:] == ["10.00", "", "Their paper, table 9 (from memory)"]
    assert row(page, "## The peers", "NC", "CIFAR-10", "attack success before")[3] == "100.00"


def test_plots_depend_on_the_data_only(page: str, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    assert set(first) == {"roc-resnet20.svg", "scores-resnet20.svg"}
    tables.page()
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    assert "(plots/roc-resnet20.svg)" in page


def test_draws_of_one_network_count_as_one() -> None:
    draws = [cell_of("badnets", seed) | {"method": "NC", "per_class": 50} for seed in (0, 0, 1)]
    records = [record | {"figure": {"auroc": value}} for record, value in zip(draws, (0.2, 0.4, 0.9), strict=True)]
    found = grid.Grid(records).seeds("resnet20", "badnets", "NC", 50, "figure", "auroc")
    assert found == pytest.approx([0.3, 0.9])


def test_the_committed_page_is_that_of_the_committed_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PLOTS", tmp_path)
    assert tables.TARGET.read_text() == "\n".join(tables.page()) + "\n", "run make tables"


def test_spread() -> None:
    assert grid.spread([]) == ""
    assert grid.spread([0.5]) == "50.00"
    assert grid.spread([0.0, 1.0]) == "50.00 ± 70.71"
