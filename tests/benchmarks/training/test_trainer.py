"""Training under every objective and on imbalanced sets, on networks and images that take a second."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks import cifar, train
from benchmarks.evaluate import per_class_accuracy
from benchmarks.train import OutOfTimeError, Recipe, Trainer, run
from benchmarks.training.imbalance import PROFILES
from benchmarks.training.networks import NETWORKS
from benchmarks.training.objectives import OBJECTIVES, GaussianCloud
from benchmarks.training.recipe import optimiser_of
from tests.benchmarks.synthetic import Tiny, synthetic_cifar

DATA = synthetic_cifar()
every_objective = pytest.mark.parametrize("objective", sorted(OBJECTIVES))


class Headed(Tiny):
    """With its last layer apart, as the networks of the bench have it."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.head = self.layers.pop(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(super().forward(x))
        return logits


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "headed", Headed)
    monkeypatch.setitem(OBJECTIVES, "GCL", partial(GaussianCloud, retraining=2))
    monkeypatch.setattr(cifar, "load", lambda name, folder: DATA)


def recipe(objective: str = "CE", **options: Any) -> Recipe:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 32, "precision": "float32", "profile": "LT-10"}
    return Recipe(network="headed", attack="none", objective=objective, **(settings | options))


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in trainer.network.state_dict().values()])


def trained(chosen: Recipe, folder: Path) -> Trainer:
    """In one piece."""
    trainer = Trainer(chosen, DATA)
    trainer.train(folder / "whole")
    return trainer


def trained_epoch_by_epoch(chosen: Recipe, folder: Path) -> Trainer:
    """By a new trainer for each epoch, as if each ran out of time."""
    checkpoint = folder / "pieces"
    for _ in range(10):
        trainer = Trainer(chosen, DATA)
        if checkpoint.is_file():
            trainer.restore(checkpoint)
        try:
            trainer.train(checkpoint, deadline=0)
        except OutOfTimeError:
            continue
        return trainer
    raise AssertionError("training never ended")


@every_objective
def test_a_run_in_pieces_ends_where_a_whole_one_does(objective: str, tmp_path: Path) -> None:
    whole, pieces = (make(recipe(objective), tmp_path) for make in (trained, trained_epoch_by_epoch))
    assert whole.epoch == pieces.epoch == whole.epochs
    assert torch.allclose(weights(pieces), weights(whole), atol=1e-6)


@every_objective
def test_the_network_learns_under_every_objective(objective: str, tmp_path: Path) -> None:
    record = run(recipe(objective, profile="balanced", epochs=5), tmp_path, None, resume=False)
    assert record["clean_accuracy"] > 0.6  # type: ignore[operator]  # 0.1 by chance


def test_retraining_leaves_all_but_the_head_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = trained(recipe("GCL"), tmp_path).network.state_dict()
    monkeypatch.setitem(OBJECTIVES, "GCL", partial(GaussianCloud, retraining=0))
    first = trained(recipe("GCL"), tmp_path).network.state_dict()
    changed = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert changed == ["head.weight"]


def test_retraining_sees_rare_classes_as_often(tmp_path: Path) -> None:
    trainer = Trainer(recipe("GCL", profile="step-10"), DATA)
    shares = []
    for trainer.epoch in (0, 2):
        labels = torch.cat([targets[0] for _, targets, _ in trainer.batches()])
        shares.append(float((labels >= 5).float().mean()))
    assert shares[0] == pytest.approx(1 / 11, abs=0.03)
    assert shares[1] == pytest.approx(1 / 2, abs=0.1)  # effective numbers at this size are the numbers themselves


def test_a_profile_thins_the_training_split_alone(tmp_path: Path) -> None:
    record = run(recipe(profile="step-10", epochs=1), tmp_path, None, resume=False)
    assert record["class_sizes"] == PROFILES["step-10"](100, 10).tolist()
    assert record["clean_images"] == len(DATA.x_test)
    trainer = Trainer(recipe(profile="step-10"), DATA)
    assert np.bincount(trainer.y).tolist() == record["class_sizes"]
    other = Trainer(recipe(profile="step-10", seed=1), DATA)
    assert not np.array_equal(trainer.x, other.x)


def test_accuracy_of_each_class(tmp_path: Path) -> None:
    decisions, y = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 2, 2])
    assert per_class_accuracy(decisions, y) == pytest.approx([1, 2 / 3, 1 / 2])
    record = run(recipe(), tmp_path, None, resume=False)
    shares: Any = record["per_class_accuracy"]
    assert len(shares) == 10
    assert np.mean(shares) == pytest.approx(record["clean_accuracy"])  # the test split is balanced


def test_an_exported_network_of_gcl_has_a_plain_head(tmp_path: Path) -> None:
    chosen = recipe("GCL")
    run(chosen, tmp_path, None, resume=False)
    graph = onnx.load(tmp_path / f"{chosen.name}.onnx").graph
    assert [node.op_type for node in graph.node if node.op_type not in ("Conv", "Relu")][-1] == "Gemm"
    head = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer if each.name.startswith("head")}
    lengths = np.linalg.norm(head["head.weight"], axis=1)
    assert lengths == pytest.approx(lengths[0], rel=1e-5)
    assert not head["head.bias"].any()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"profile": "LT-100", "objective": "GCL"}, "cifar10-resnet32-LT-100-GCL-seed0"),
        ({"profile": "step-10"}, "cifar10-resnet32-step-10-seed0"),
        ({"objective": "mixup"}, "cifar10-resnet32-mixup-seed0"),
        ({}, "cifar10-resnet32-none-seed0"),
        ({"attack": "badnets"}, "cifar10-resnet32-badnets-seed0"),
        ({"attack": "badnets", "profile": "LT-10"}, "cifar10-resnet32-badnets-LT-10-seed0"),
        ({"attack": "badnets", "target": 3, "seed": 1}, "cifar10-resnet32-badnets-target3-seed1"),
    ],
)
def test_names_of_files(options: dict[str, Any], name: str) -> None:
    assert Recipe(**({"network": "resnet32", "attack": "none"} | options)).name == name


def test_an_attack_goes_with_cross_entropy_alone() -> None:
    with pytest.raises(ValueError, match="mixup only trains clean networks"):
        Recipe(objective="mixup")


def test_adamw_steps_by_the_learning_rate_and_decays_by_its_share() -> None:
    chosen = recipe(optimiser="AdamW", peak_learning_rate=0.5, weight_decay=0.1, warm_up=0.5, profile="balanced")
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    optimiser, schedule = optimiser_of(chosen, module, 10)
    rate = schedule.get_last_lr()[0]
    assert rate == pytest.approx(0.5 / 25)  # where a one-cycle schedule begins by default
    module(torch.ones(1, 1)).backward()
    optimiser.step()
    assert module.weight.item() == pytest.approx(2.0 * (1 - rate * 0.1) - rate)  # of any gradient, the first step is 1


def test_unknown_optimisers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SGD, AdamW, got Adam\b"):
        Recipe(optimiser="Adam")


def test_a_checkpoint_from_before_a_field_was_added(tmp_path: Path) -> None:
    chosen = recipe(profile="balanced")
    trained(chosen, tmp_path)
    state = torch.load(tmp_path / "whole", weights_only=True)
    del state["recipe"]["profile"], state["recipe"]["objective"], state["recipe"]["optimiser"]
    torch.save(state, tmp_path / "old")
    Trainer(chosen, DATA).restore(tmp_path / "old")
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(recipe(), DATA).restore(tmp_path / "old")


def _main(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Callable[[], None]:
    command = ["train", "--network", "headed", "--attack", "none", "--epochs", "2", "--train-images", "256"]
    command += ["--precision", "float32", "--out", str(folder), *options]
    monkeypatch.setattr("sys.argv", command)
    return train.main


def test_a_run_out_of_time_stops_cleanly_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    main = _main(monkeypatch, tmp_path, "--minutes", "0")
    with caplog.at_level(logging.INFO, "benchmarks"):
        main()
    assert "1 of 2 epochs done; run again" in caplog.text
    assert not list(tmp_path.glob("*.json"))
    main()
    assert [path.name for path in tmp_path.glob("*.json")] == ["cifar10-headed-none-seed0.json"]
