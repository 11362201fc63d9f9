import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import cifar
from benchmarks.cells import Bed, Cell, run_cells, run_command
from benchmarks.record import Record
from benchmarks.suspect import Suspect
from tests.benchmarks.synthetic import synthetic_cifar

CELLS = [Cell("a", "NC"), Cell("a", "SCALE-UP data-free", per_class=10, draw=2)]


def test_every_cell_has_a_file_of_its_own() -> None:
    assert [cell.file for cell in CELLS] == ["a-NC-50-draw0.json", "a-SCALE-UP_data-free-10-draw2.json"]


def test_a_cell_that_is_there_is_left_alone(tmp_path: Path) -> None:
    run = []

    def measure(cell: Cell) -> Record:
        run.append(cell.method)
        return {"figure": len(run)}

    assert run_cells(CELLS[:1], tmp_path, measure) == 0
    assert run_cells(CELLS, tmp_path, measure) == 0
    assert run == ["NC", "SCALE-UP data-free"]
    record = json.loads((tmp_path / CELLS[0].file).read_text())
    assert record["figure"] == 1
    assert record["network"] == "a"
    assert record["per_class"] == 50
    assert {"hardware", "versions", "date", "cell_seconds"} <= set(record)


def test_a_cell_that_fails_is_told_leaves_nothing_and_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def measure(cell: Cell) -> Record:
        if cell.method == "NC":
            raise RuntimeError("no such luck")
        return {}

    assert run_cells(CELLS, tmp_path, measure) == 1
    assert "no such luck" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [CELLS[1].file]


def test_calibration_images_are_never_measured_on(suspect: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic_cifar()
    monkeypatch.setattr(cifar, "load", lambda name, folder: data)
    monkeypatch.setattr(Suspect, "load", lambda name: suspect)
    bed, other = (Bed.of(Cell(suspect.name, "NC", per_class=5, draw=draw), None) for draw in (0, 1))
    assert len(bed.clean.y) == 50
    assert len(bed.y) == len(data.y_test) - 50
    seen = {image.tobytes() for image in bed.clean.x}
    assert not seen & {image.tobytes() for image in bed.x}
    assert seen != {image.tobytes() for image in other.clean.x}


@pytest.mark.parametrize(("words", "run"), [([], ["NC", "FP"]), (["--defences", "slow", "FP"], ["slow", "FP"])])
def test_what_is_slow_runs_where_it_is_named(
    words: list[str], run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def grid(networks: Sequence[str], methods: Sequence[str], draws: int) -> list[Cell]:
        asked.extend(methods)
        return []

    monkeypatch.setattr(sys, "argv", ["grid", *words])
    assert run_command("", "defences", ["NC", "slow", "FP"], {"slow"}, grid, tmp_path, lambda cell, folder: {}) == 0
    assert asked == run
