import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.overfitting import section
from benchmarks.tables import HERE

PAPER = json.loads((HERE / "paper.json").read_text())
CELL = {"data": "cifar10", "profile": "LT-100", "objective": "CE", "epochs": 200, "mitigation": "none", "weight": None}


def record(accuracy: float, **what: Any) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "per_class_accuracy": [0.9, 0.1], "class_sizes": [100, 1]}
    return CELL | {"architecture": "resnet32"} | figures | {"training_seconds": 100.0, "mitigation_seconds": 7.0} | what


@pytest.fixture
def page(tmp_path: Path) -> str:
    mmom = {"mitigation": "MMOM", "weight": 1e-5}
    records = [
        record(0.70),
        record(0.72, seed=1),
        record(0.80, **mmom),
        record(0.60, mitigation="MMOM", weight=1e-3),
        record(0.69, mitigation="MMAC"),
        record(0.75, epochs=1000),
        record(0.82, epochs=1000, **mmom),
        record(0.5, data="cifar100", profile="step-10", objective="GCL"),
        record(0.93, profile="balanced"),
        record(0.50, architecture="resnet20", epochs=20),
        record(0.40, architecture="resnet20", epochs=20, seed=1),
        record(0.61, architecture="resnet20", epochs=20, **mmom),
        record(0.61, architecture="resnet20", epochs=20, profile="LT-10", **mmom),
    ]
    return "\n".join(section(records, PAPER, tmp_path / "plots"))


def row(page: str, heading: str, *begins: str) -> list[str]:
    lines = page[page.index(heading) :].splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return next(found for found in cells if tuple(found[: len(begins)]) == begins)


def test_rare_classes(page: str) -> None:
    assert row(page, "### Table 2", "CE", "paper")[2:4] == ["73.36", "87.80"]
    assert row(page, "### Table 2", "CE", "ours")[2:] == ["71.00 ± 1.41", *[""] * 7]
    assert row(page, "### Table 2", "CE + MMOM", "ours")[2] == "80.00"
    assert row(page, "### Table 2", "GCL", "ours")[-1] == "50.00"
    assert row(page, "### Table 4", "CE + MMAC", "ours")[2] == "69.00"


def test_lambda_balanced_and_over_training(page: str) -> None:
    assert row(page, "### Table 3", "λ")[1:] == ["0", "1e-07", "1e-06", "1e-05", "0.0001", "0.001"]
    assert row(page, "### Table 3", "paper")[1:] == ["80.09", "80.80", "80.57", "80.77", "80.41", "72.50"]
    assert row(page, "### Table 3", "ours")[1:] == ["", "", "", "80.00", "", "60.00"]
    assert row(page, "### Table 5", "CE", "ours")[2:] == ["93.00", ""]
    assert row(page, "### Section 4.3", "ours")[1:] == ["71.00 ± 1.41", "75.00", "82.00"]


def test_smaller_networks_have_a_table_of_their_own_where_both_cells_are_there(page: str) -> None:
    assert row(page, "### MMOM on CIFAR-10", "resnet20") == ["resnet20", "20", "LT-100", "45.00", "61.00", "+16.00"]
    assert page.count("| resnet20 ") == 1


def test_seconds_are_of_training_or_of_what_came_after(page: str) -> None:
    assert row(page, "### Section 4.4", "ours")[1:] == ["100", "", "", "7", "7"]


def test_figures_are_drawn_where_there_is_something(page: str, tmp_path: Path) -> None:
    assert "(plots/per-class.svg)" in page
    drawing = (tmp_path / "plots" / "per-class.svg").read_text()
    assert "<!-- LT-100, over-trained -->" in drawing
    assert "<!-- step-10 -->" not in drawing
    assert "per-class" not in "\n".join(section([], PAPER, tmp_path))
