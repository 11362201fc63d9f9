"""What holds for every defence that trains on, and the core of each against its equation."""

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.cifar import Images, Labels
from benchmarks.defences import (
    DEFENCES,
    AttentionDistillation,
    Defence,
    FinePruning,
    IBau,
    Mitigated,
    NeuralCleanse,
    attention_distillation,
    fine_pruning,
    ibau,
    neural_cleanse,
)
from benchmarks.defences.attention_distillation import attention, cut_out, distance, distillation, recorded, stage_ends
from benchmarks.defences.fine_pruning import LastChannels, split
from benchmarks.defences.ibau import hypergradient
from benchmarks.defences.neural_cleanse import Trigger, Weight, anomaly_indices
from benchmarks.defences.training import batches, copy_of, device, to_labels
from benchmarks.suspect import CleanSet, Suspect, predict, to_tensor
from benchmarks.training.networks import NETWORKS
from tests.benchmarks.synthetic import images_and_labels

SMALL: dict[str, Defence] = {
    "NC": NeuralCleanse(rounds=6, round_batches=2, batch=16, learning_rate=0.3, patience=1, start=0.01),
    "NAD": AttentionDistillation(teacher_epochs=1, epochs=6, learning_rate=0.005, every=4),
    "FP": FinePruning(epochs=1),
    "I-BAU": IBau(rounds=1, steps=2, batch=50, iterations=2),
}

every_defence = pytest.mark.parametrize("name", sorted(SMALL))


@dataclass(frozen=True)
class Unseen:
    x: Images
    y: Labels


@cache
def unseen() -> Unseen:
    return Unseen(*images_and_labels(200, 4))


@pytest.fixture(scope="module")
def mitigated(suspect: Suspect, clean: CleanSet) -> dict[str, Mitigated]:
    return {name: defence.mitigate(suspect, clean, 0) for name, defence in SMALL.items()}


@every_defence
def test_the_registry_has_it_with_the_settings_of_its_paper(name: str) -> None:
    assert type(DEFENCES[name]()) is type(SMALL[name])
    assert DEFENCES[name]().per_class >= 100


@every_defence
def test_the_backdoor_weakens_and_the_task_is_kept(
    name: str, suspect: Suspect, mitigated: dict[str, Mitigated]
) -> None:
    labels = mitigated[name].labels(unseen().x)
    assert labels.shape == (200,)
    assert labels.dtype == np.int64
    assert set(labels) <= set(range(10))
    assert (labels == unseen().y).mean() > 0.8
    victims = unseen().x[unseen().y != 0]
    assert (mitigated[name].labels(suspect.attack.trigger(victims)) == 0).mean() < 0.9
    json.dumps(mitigated[name].notes, allow_nan=False)


@every_defence
def test_a_second_run_agrees_and_nothing_else_has_changed(
    name: str, suspect: Suspect, clean: CleanSet, mitigated: dict[str, Mitigated]
) -> None:
    file, x = suspect.path.read_bytes(), clean.x.copy()
    states = torch.get_rng_state(), np.random.get_state(legacy=True)
    again = SMALL[name].mitigate(suspect, clean, 0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state(legacy=True)) == str(states[1])
    assert suspect.path.read_bytes() == file
    assert np.array_equal(clean.x, x)
    triggered = suspect.attack.trigger(unseen().x)
    assert np.array_equal(again.labels(triggered), mitigated[name].labels(triggered))
    assert again.notes == mitigated[name].notes


@pytest.mark.parametrize("module", [attention_distillation, fine_pruning, ibau, neural_cleanse])
def test_published_figures_are_shares(module: object) -> None:
    figures = vars(module)["PUBLISHED"].figures
    assert {"clean_accuracy", "attack_success", "clean_accuracy_before", "attack_success_before"} == set(figures)
    assert all(0 <= value <= 1 for value in figures.values())


def test_batches_pass_over_all_images_once_in_nearly_equal_parts(clean: CleanSet) -> None:
    parts = list(batches(clean, 32, np.random.default_rng(0)))
    assert [len(y) for _, y in parts] == [25, 25, 25, 25]
    found = torch.cat([x for x, _ in parts]).sum(dim=(1, 2, 3)).sort().values
    assert torch.allclose(found.cpu(), to_tensor(clean.x).sum(dim=(1, 2, 3)).sort().values)


# Neural Cleanse


def test_the_class_of_the_backdoor_has_the_smallest_mask(mitigated: dict[str, Mitigated]) -> None:
    norms = mitigated["NC"].notes["mask_norms"]
    assert np.argmin(np.array(norms)) == 0


def test_lambda_follows_whether_the_trigger_works() -> None:
    weight = Weight(start=0.001, patience=2, factor=4.0)
    values = []
    for works in (False, False, True, True, True, False, True, True, False, False):
        weight.update(works)
        values.append(weight.value)
    assert values[:4] == [0, 0, 0, 0.001]
    assert values[4:7] == [0.001] * 3, "a round that fails in between starts the count anew"
    assert values[7:9] == [0.004] * 2
    assert values[9] == pytest.approx(0.004 / 8)


def test_anomaly_indices_by_hand() -> None:
    norms = np.array([10.0, 12.0, 14.0, 100.0, 2.0])  # median 12, distances 2 0 2 88 10, their median 2
    assert anomaly_indices(norms) * 1.4826 == pytest.approx(np.array([1, 0, 1, 44, 5]))
    assert anomaly_indices(np.array([5.0, 5.0, 5.0, 1.0])).tolist() == [0, 0, 0, np.inf]


def test_a_trigger_shows_its_pattern_where_its_mask_is_set() -> None:
    mask, pattern = torch.zeros(32, 32), torch.full((3, 32, 32), 0.8)
    mask[0, 0], mask[0, 1] = 1, 0.5
    stamped = Trigger(mask, pattern).stamp(torch.full((2, 3, 32, 32), 0.4))
    assert stamped[1, :, 0, 0].tolist() == pytest.approx([0.8] * 3)
    assert stamped[1, :, 0, 1].tolist() == pytest.approx([0.6] * 3)
    assert float(stamped[1, 0, 1:].max()) == pytest.approx(0.4)
    assert Trigger(mask, pattern).norm == 1.5


def test_a_fifth_is_stamped_and_keeps_its_labels() -> None:
    triggers = [Trigger(torch.ones(32, 32), torch.full((3, 32, 32), level)) for level in (0.25, 0.75)]
    y = torch.arange(50)
    x, labels = NeuralCleanse().stamp((torch.zeros(50, 3, 32, 32), y), triggers, np.random.default_rng(0))
    assert torch.equal(labels, y)
    levels = x.mean(dim=(1, 2, 3))
    assert int((levels > 0).sum()) == 10
    assert set(levels.unique().tolist()) == {0, 0.25, 0.75}


def test_nothing_is_unlearnt_where_no_class_is_flagged(suspect: Suspect, clean: CleanSet) -> None:
    result = NeuralCleanse(rounds=1, round_batches=1, limit=np.inf).mitigate(suspect, clean, 0)
    assert result.notes["flagged"] == []
    assert result.notes["changed"] is False
    assert np.array_equal(result.labels(unseen().x), suspect.exported.labels(unseen().x))


# Attention distillation


def test_attention_by_hand() -> None:
    features = torch.tensor([[[[3.0, 0.0]], [[-4.0, 2.0]]]])  # (1, 2, 1, 2); summed squares are 25 and 4
    expected = torch.tensor([[25.0, 4.0]]) / 641**0.5
    assert torch.allclose(attention(features), expected)
    assert float(distance(features, -3 * features)) == pytest.approx(0, abs=1e-12)
    one_place = torch.tensor([[[[0.0, 7.0]]]])
    assert float(distance(features, one_place)) == pytest.approx((625 + (641**0.5 - 4) ** 2) / 641 / 2)


@pytest.mark.parametrize(
    ("network", "ends"), [("resnet20", (2, 5, 8)), ("wrn16_1", (1, 3, 5)), ("resnet18", (1, 3, 5, 7))]
)
def test_stages_end_where_the_shape_changes(network: str, ends: tuple[int, ...]) -> None:
    module = nn.Sequential(nn.Identity(), NETWORKS[network](10)).to(device()).eval()
    assert stage_ends(module) == [f"1.blocks.{block}" for block in ends]


def test_a_copy_is_at_no_distance_and_a_teacher_gets_no_gradient(suspect: Suspect, clean: CleanSet) -> None:
    teacher, student = copy_of(suspect), copy_of(suspect)
    x, y = to_tensor(clean.x).to(device()), to_labels(clean.y)
    plain = nn.functional.cross_entropy(student(x), y)
    assert torch.allclose(distillation(teacher, student, (500.0, 1000.0, 1000.0))(x, y), plain)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    loss = distillation(teacher, student, (500.0, 1000.0, 1000.0))(x, y)
    ends = stage_ends(student)
    with recorded(teacher, ends) as wanted, recorded(student, ends) as found:
        expected = nn.functional.cross_entropy(student(x), y)
        teacher(x)
    for end, beta in zip(ends, (500, 1000, 1000), strict=True):
        expected = expected + beta * distance(found[end], wanted[end])
    assert torch.allclose(loss, expected)
    torch.autograd.backward(loss)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_square_is_cut_out() -> None:
    x = np.full((40, 32, 32, 3), 9, dtype=np.uint8)
    holes = (cut_out(x, 5, np.random.default_rng(0)) == 0).all(axis=3)
    assert holes.any(axis=2).sum(axis=1).max() == 5
    assert holes.any(axis=1).sum(axis=1).max() == 5
    assert (holes.sum(axis=(1, 2)) == holes.any(axis=1).sum(axis=1) * holes.any(axis=2).sum(axis=1)).all()
    assert x.min() == 9


# Fine-pruning


def test_the_least_active_channels_are_pruned_and_stay_zero(suspect: Suspect, clean: CleanSet) -> None:
    module = copy_of(suspect)
    last = LastChannels(module)
    features, y = last.of(clean.x), to_labels(clean.y)
    means = features.mean(dim=0)
    assert torch.allclose(features @ last.linear.weight.T + last.linear.bias, _logits(module, clean), atol=1e-4)
    least = last.accuracy(features, y) - 0.1
    last.prune(means, features, y, least)
    pruned = (last.kept == 0).nonzero().flatten()
    assert 0 < len(pruned) < 64
    assert set(pruned.tolist()) == set(means.argsort()[: len(pruned)].tolist())
    assert last.accuracy(features, y) >= least
    assert (_logits(module, clean).argmax(dim=1) == y).float().mean() == pytest.approx(last.accuracy(features, y))
    FinePruning(epochs=1).train(module, clean, np.random.default_rng(0))
    given: list[torch.Tensor] = []
    last.linear.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    predict(module, clean.x)
    assert not given[0][:, pruned].any()
    assert given[0].any(dim=0).sum() == 64 - len(pruned)


@pytest.mark.parametrize("network", ["wrn16_1", "resnet18"])
def test_the_channels_are_those_that_the_classifier_is_given(network: str, clean: CleanSet) -> None:
    module = nn.Sequential(nn.Identity(), NETWORKS[network](10)).to(device()).eval()
    last, ten = LastChannels(module), CleanSet(clean.x[:10], clean.y[:10])
    assert torch.allclose(last.of(ten.x) @ last.linear.weight.T + last.linear.bias, _logits(module, ten), atol=1e-4)
    last.kept[:] = 0
    assert torch.allclose(_logits(module, ten), last.linear.bias.expand(10, -1))


def test_the_tolerance_decides_how_much_is_pruned(suspect: Suspect, clean: CleanSet) -> None:
    def pruned(tolerance: float) -> object:
        return FinePruning(tolerance=tolerance, epochs=0).mitigate(suspect, clean, 0).notes["pruned"]

    assert pruned(-1.0) == 0
    assert pruned(1.0) == 64


def test_a_share_of_each_class_is_held_out(clean: CleanSet) -> None:
    used, held = split(clean, 0.2, np.random.default_rng(0))
    assert np.bincount(held.y).tolist() == [2] * 10
    assert np.bincount(used.y).tolist() == [8] * 10
    both = np.concatenate([used.x, held.x]).reshape(100, -1)
    assert len(np.unique(both, axis=0)) == 100


def _logits(module: nn.Module, clean: CleanSet) -> torch.Tensor:
    return torch.from_numpy(predict(module, clean.x)).to(device())


# I-BAU


def test_the_hypergradient_is_exact_where_it_is_known() -> None:
    # inner = δ'Aδ/2 - δ'Bθ has its minimum at δ(θ) = A⁻¹Bθ; outer = |δ - c|²/2 + |θ|²/2, by hand θ + (A⁻¹B)'(δ(θ) - c)
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    a = root @ root.T / 4 + torch.eye(4, dtype=torch.float64)
    theta, c = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (3, 4))
    theta.requires_grad_()
    solve = torch.linalg.solve(a, b)
    delta = (solve @ theta).detach()
    (found,) = hypergradient(
        lambda d: d @ a @ d / 2 - d @ b @ theta,
        lambda d: (d - c).square().sum() / 2 + theta.square().sum() / 2,
        delta,
        [theta],
        step=0.2,
        iterations=400,
    )
    assert torch.allclose(found, (theta + solve.T @ (delta - c)).detach(), atol=1e-8)


def test_the_fixed_point_is_a_truncated_series() -> None:
    # One dimension: inner = δ²/2 - δθ, outer = δ, so that v sums (1 - step)^k, and dΦ/dθ = step.
    theta = torch.tensor(0.3, requires_grad=True)
    (found,) = hypergradient(lambda d: d * d / 2 - d * theta, lambda d: d, torch.tensor(0.3), [theta], 0.1, 3)
    assert float(found) == pytest.approx(0.1 * (1 + 0.9 + 0.81))


def test_weights_without_part_in_a_loss_get_its_zero() -> None:
    used, unused = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    found = hypergradient(
        lambda d: d * d / 2 - d * used, lambda d: d * d, torch.tensor(2.0), [used, unused], step=1.0, iterations=1
    )
    assert [float(each) for each in found] == [4.0, 0.0]


def test_the_perturbation_climbs_and_keeps_to_the_ball(suspect: Suspect, clean: CleanSet) -> None:
    defence = IBau(steps=4, batch=100, radius=2.0)
    module = copy_of(suspect)
    delta = defence.climb(module, defence.stream(clean, np.random.default_rng(0)))
    assert delta.shape == (1, 3, 32, 32)
    assert 0 < float(delta.norm()) <= 2.0001
    x, y = to_tensor(clean.x).to(device()), to_labels(clean.y)
    with torch.no_grad():
        before, after = (nn.functional.cross_entropy(module(each), y) for each in (x, x + delta))
    assert after > before


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_round_has_its_steps_however_small_the_clean_set(clean: CleanSet, steps: int) -> None:
    assert len(list(IBau(steps=steps, batch=50).stream(clean, np.random.default_rng(0)))) == steps
