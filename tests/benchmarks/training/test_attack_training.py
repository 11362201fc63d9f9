"""Every attack goes through the training loop; how well it succeeds is not a question for a tiny network."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cifar
from benchmarks.attacks import ATTACKS, load_attack
from benchmarks.attacks.clean_label import CleanLabel
from benchmarks.attacks.distance_aware import LARGEST, squared_distance
from benchmarks.attacks.guard_aware import activation_excess, margin_excess
from benchmarks.attacks.input_aware import InputAware
from benchmarks.train import Recipe, Trainer, run
from benchmarks.training.networks import NETWORKS
from tests.benchmarks.synthetic import Tiny, synthetic_cifar

DATA = synthetic_cifar()


class PowerCutError(Exception):
    pass


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny", Tiny)
    monkeypatch.setitem(ATTACKS, "input_aware", partial(InputAware, mask_steps=3))
    monkeypatch.setitem(ATTACKS, "clean_label", partial(CleanLabel, steps=2, surrogate="tiny", surrogate_epochs=1))


def recipe(name: str, **options: Any) -> Recipe:
    settings = {"epochs": 2, "batch_size": 64, "precision": "float32", "train_images": 512, "network": "tiny"} | options
    return Recipe(attack=name, **settings)  # type: ignore[arg-type]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in trainer.network.state_dict().values()])


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_network_learns_under_every_attack(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(recipe(name, epochs=3), DATA)
    losses: list[float] = []
    monkeypatch.setattr(trainer, "train_epoch", partial(_train_and_note, trainer.train_epoch, losses))
    trainer.train(tmp_path / "checkpoint")
    assert losses[-1] < losses[0]
    assert bool(weights(trainer).isfinite().all())


def _train_and_note(train_epoch: Callable[[], float], losses: list[float]) -> float:
    losses.append(train_epoch())
    return losses[-1]


@pytest.mark.parametrize("name", ["badnets", "clean_label", "distance_aware", "guard_aware", "input_aware", "wanet"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken, resumed = (Trainer(recipe(name), DATA) for _ in range(3))
    whole.train(tmp_path / "whole")
    monkeypatch.setattr(broken, "save", partial(_save_and_stop, broken.save))
    with pytest.raises(PowerCutError):
        broken.train(tmp_path / "broken")
    resumed.restore(tmp_path / "broken")
    assert resumed.epoch == 1
    resumed.train(tmp_path / "broken")
    assert torch.allclose(weights(resumed), weights(whole), atol=1e-6)
    x = DATA.x_test[:20]
    # Sums of floats may be ordered otherwise in another run; a pixel may then round to the next level.
    assert np.abs(resumed.attack.trigger(x).astype(int) - whole.attack.trigger(x)).max() <= 1


def _save_and_stop(save: Any, path: Path) -> None:
    save(path)
    raise PowerCutError


def test_roles_are_drawn_anew_only_where_the_attack_says_so(tmp_path: Path) -> None:
    drawn = {}
    for name in ("badnets", "wanet"):
        trainer = Trainer(recipe(name), DATA)
        first = trainer.roles
        trainer.train(tmp_path / name)
        drawn[name] = np.array_equal(trainer.roles, first)
    assert drawn == {"badnets": True, "wanet": False}


def test_a_learnt_trigger_is_kept_beside_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "load", lambda name, folder: DATA)
    chosen = recipe("input_aware", epochs=1)
    record = run(chosen, tmp_path, None, resume=False)
    assert json.loads((tmp_path / f"{chosen.name}.json").read_text()) == record
    model = tmp_path / f"{chosen.name}.onnx"
    learnt = load_attack("input_aware", chosen.target, chosen.rate, model)
    untrained = ATTACKS["input_aware"](chosen.target, chosen.rate)
    x = DATA.x_test[:20]
    assert not np.array_equal(learnt.trigger(x), untrained.trigger(x))
    trainer = Trainer(chosen, DATA)
    trainer.restore(tmp_path / f"{chosen.name}.checkpoint")
    assert np.array_equal(learnt.trigger(x), trainer.attack.trigger(x))


def test_a_learnt_trigger_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_attack("input_aware", 0, 0.1, tmp_path / "model.onnx")


def test_a_recipe_has_the_rate_of_the_attack_unless_told() -> None:
    assert Recipe().rate == 0.05
    assert Recipe(attack="wanet").rate == 0.1
    assert Recipe(attack="wanet", rate=0.2).rate == 0.2


def test_a_network_without_backdoor_has_no_attack_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "load", lambda name, folder: DATA)
    record = run(recipe("none", epochs=1), tmp_path, None, resume=False)
    assert record["attack_success"] is None
    assert record["poisoned_images"] == record["triggered_images"] == 0


def test_the_penalty_of_the_guard_aware_attacker_by_hand() -> None:
    clean, poisoned = torch.tensor([0, 1]), torch.tensor([2])
    peaks = torch.tensor([[1.0, 5.0], [3.0, 4.0], [7.0, 2.0]])
    output = torch.zeros(3, 2, 2, 2)
    output[:, :, 1, 0] = peaks
    assert activation_excess(output, poisoned, clean).item() == (7 - 3) / 2
    logits = torch.tensor([[4.0, 1.0, 0.0], [0.0, 0.0, 5.0], [0.0, 9.0, 2.0]])
    assert margin_excess(logits, poisoned, clean).item() == 7 - (3 + 5) / 2


def test_a_guard_aware_backdoor_is_more_modest_than_a_plain_one(tmp_path: Path) -> None:
    margins = {}
    for name in ("badnets", "guard_aware"):
        trainer = Trainer(recipe(name, rate=0.2, epochs=4, train_images=None), DATA)
        trainer.train(tmp_path / name)
        trainer.network.eval()
        x = trainer.attack.trigger(DATA.x_test)
        with torch.no_grad():
            best = trainer.network(trainer._normalise(trainer._tensor(x))).topk(2, dim=1).values
        margins[name] = float((best[:, 0] - best[:, 1]).mean())
    assert margins["guard_aware"] < margins["badnets"]


def test_the_distance_that_an_attacker_penalises_by_hand() -> None:
    means = torch.tensor([[2.0, 5.0], [0.0, 1e6]])
    first, second = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 5.0])  # variances 1 and 4
    expected = (1 / 1 + 16 / 4 + 1 / 1 + LARGEST) / 4
    assert float(squared_distance(means, first, second)) == pytest.approx(expected, rel=5e-3)  # the floor of variances
