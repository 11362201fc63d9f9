import numpy as np
import pytest

from benchmarks import cifar, mitigation
from benchmarks.attacks import ATTACKS
from benchmarks.cells import Cell
from benchmarks.cifar import Images, Labels
from benchmarks.defences import DEFENCES, Mitigated
from benchmarks.mitigation import figures, measure
from benchmarks.suspect import Suspect
from tests.benchmarks.synthetic import images_and_labels, synthetic_cifar

X, Y = images_and_labels(40, 5)


def answers(clean: Labels, triggered: Labels) -> Mitigated:
    """Decides as told: the first batch is clean, the next triggered."""
    batches = iter([clean, triggered])

    def labels(x: Images) -> Labels:
        return next(batches)[: len(x)]

    return Mitigated(labels)


def test_the_three_figures_by_hand() -> None:
    victims = Y != 0
    clean = Y.copy()
    clean[:10] = (clean[:10] + 1) % 10
    triggered = np.where(np.arange(victims.sum()) < 9, 0, Y[victims])
    found = figures(answers(clean, triggered), ATTACKS["badnets"](0, 0.05), X, Y)
    assert found["clean_images"] == 40
    assert found["triggered_images"] == 36
    assert found["clean_accuracy"] == 30 / 40
    assert found["attack_success"] == 9 / 36
    assert found["triggered_accuracy"] == 27 / 36


def test_only_attacked_classes_are_triggered() -> None:
    found = figures(answers(Y, np.zeros(40, dtype=np.int64)), ATTACKS["source_specific"](0, 0.02), X, Y)
    assert found["triggered_images"] == (Y == 1).sum()
    assert found["attack_success"] == 1.0


def test_a_network_without_attack_has_an_accuracy_only() -> None:
    found = figures(answers(Y, Y), ATTACKS["none"](), X, Y)
    assert found["clean_accuracy"] == 1.0
    assert found["attack_success"] is None
    assert found["triggered_accuracy"] is None


def test_the_cells_for_the_images_of_a_defence_s_own_paper_come_last() -> None:
    grid = list(mitigation.cells(["a", "b"], ["without", "NC", "MMDF"], draws=2))
    assert [(cell.method, cell.per_class) for cell in grid if cell.draw == 0 and cell.network == "a"] == [
        ("without", 50),
        ("NC", 50),
        ("MMDF", 50),
        ("NC", 500),
    ]
    assert [cell.network for cell in grid[-4:]] == ["a", "a", "b", "b"]
    assert {cell.draw for cell in grid} == {0, 1}
    assert "MM-BM" in DEFENCES


def test_a_cell_without_defence_is_the_network_itself(suspect: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic_cifar()
    monkeypatch.setattr(cifar, "load", lambda name, folder: data)
    monkeypatch.setattr(Suspect, "load", lambda name: suspect)
    record = measure(Cell(suspect.name, "without", per_class=5))
    assert record["clean_images"] == len(data.y_test) - 50
    assert record["clean_accuracy"] == pytest.approx(suspect.record["clean_accuracy"], abs=0.1)
    assert record["attack_success"] == pytest.approx(suspect.record["attack_success"], abs=0.1)
    assert record["seed"] == 0
