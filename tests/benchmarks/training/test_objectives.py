import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.training.imbalance import PROFILES
from benchmarks.training.objectives import OBJECTIVES, CrossEntropy, GaussianCloud, Mixup, objective_of

SIZES = (1000, 100, 10)


class Flat(nn.Module):
    """The features are the image itself."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.weight.data, self.head.bias.data = weight.clone(), bias.clone()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def cross_entropy(logits: list[float], shares: list[float]) -> float:
    """Between a softmax and a label that may be mixed, in double precision."""
    total = math.log(sum(math.exp(logit) for logit in logits))
    return -sum(share * (logit - total) for logit, share in zip(logits, shares, strict=True))


def test_cross_entropy_by_hand() -> None:
    objective = CrossEntropy(SIZES)
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([2, 0])
    same, targets = objective.mix(images, labels, generator(), retrains=False)
    assert torch.equal(same, images)
    loss = objective.loss(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]]), targets)
    expected = (cross_entropy([1, 2, 3], [0, 0, 1]) + cross_entropy([0, -1, 4], [1, 0, 0])) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_mixup_mixes_images_as_labels() -> None:
    objective = Mixup(SIZES)
    images, labels = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    mixed, (first, second, share) = objective.mix(images, labels, generator(), retrains=False)
    partners = [
        int((mixed[i] - share * images[i] - (1 - share) * images).abs().amax((1, 2, 3)).argmin()) for i in range(6)
    ]
    assert sorted(partners) == list(range(6))
    assert torch.equal(first, labels)
    assert torch.equal(second, labels[partners])
    assert torch.allclose(mixed, share * images + (1 - share) * images[partners], atol=1e-6)


def test_mixups_loss_is_the_cross_entropy_of_the_mixed_label() -> None:
    targets = torch.tensor([2, 0]), torch.tensor([1, 0]), torch.tensor(0.3)
    loss = Mixup(SIZES).loss(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]]), targets)
    expected = (cross_entropy([1, 2, 3], [0, 0.7, 0.3]) + cross_entropy([0, -1, 4], [1, 0, 0])) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 0.25 / 1.4)])
def test_mixups_share_is_beta_distributed(alpha: float, variance: float) -> None:
    draws, images, labels = generator(), torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.int64)
    objective = Mixup(SIZES, alpha=alpha)
    shares = np.array([float(objective.mix(images, labels, draws, retrains=False)[1][2]) for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)  # some five standard errors
    assert shares.var() == pytest.approx(variance, rel=0.1)


def test_cloud_sizes_by_hand() -> None:
    # log(1000 / n) over log(1000 / 10), times 0.5
    assert GaussianCloud(SIZES, amplitude=0.5).cloud_sizes == pytest.approx([0, 0.25, 0.5])


def test_equal_classes_have_no_cloud() -> None:
    assert GaussianCloud((70, 70, 70)).cloud_sizes.tolist() == [0, 0, 0]


def test_the_cloud_is_a_clamped_gaussian() -> None:
    labels = torch.zeros(20000, dtype=torch.int64)
    objective = GaussianCloud(SIZES, amplitude=0.5, deviation=1 / 3)
    _, (same, cloud) = objective.mix(torch.zeros(0), labels, generator(), retrains=False)
    assert torch.equal(same, labels)
    assert cloud.shape == (20000, 3)
    assert cloud.min() >= 0
    assert cloud[:, 0].max() == 0
    assert cloud[:, 2].max() == 0.5  # one draw in 370 lies beyond three deviations
    tail = math.erfc(3 / math.sqrt(2))
    mean = (1 / 3) * math.sqrt(2 / math.pi) * (1 - math.exp(-4.5)) + tail  # of min(|ε|, 1)
    assert cloud[:, 2].mean().item() == pytest.approx(0.5 * mean, rel=0.02)
    assert cloud[:, 1].mean().item() == pytest.approx(0.25 * mean, rel=0.02)


def test_the_clouded_loss_by_hand() -> None:
    weight = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
    network = Flat(weight, torch.tensor([5.0, 6.0, 7.0]))  # neither lengths nor biases count
    objective = GaussianCloud(SIZES, scale=30)
    cosines = objective.logits(network, torch.tensor([[[[3.0, 4.0]]]]))
    assert cosines.tolist()[0] == pytest.approx([0.6, 0.8, -1.4 / math.sqrt(2)], abs=1e-6)
    loss = objective.loss(cosines, (torch.tensor([1]), torch.tensor([[0.0, 0.1, 0.4]])))
    clouded = [30 * 0.6, 30 * (0.8 - 0.1), 30 * (-1.4 / math.sqrt(2) - 0.4)]
    assert loss.item() == pytest.approx(cross_entropy(clouded, [0, 1, 0]), rel=1e-5)


def test_the_clouds_gradient_reaches_features_and_head() -> None:
    network = Flat(torch.randn(3, 4), torch.zeros(3))
    images = torch.randn(5, 1, 2, 2, requires_grad=True)
    objective = GaussianCloud(SIZES)
    _, targets = objective.mix(images, torch.tensor([0, 1, 2, 2, 1]), generator(), retrains=False)
    torch.autograd.backward(objective.loss(objective.logits(network, images), targets))
    assert images.grad is not None
    assert images.grad.abs().min() > 0
    assert network.head.weight.grad is not None
    assert network.head.bias.grad is None


def test_a_finished_network_decides_as_the_cosine_classifier() -> None:
    torch.manual_seed(0)
    network, images = Flat(torch.randn(3, 8), torch.randn(3)), torch.randn(100, 2, 2, 2)
    objective = GaussianCloud(SIZES, scale=30)
    with torch.no_grad():
        cosines = objective.logits(network, images)
        before = network(images).argmax(1)
        objective.finish(network, images)
        logits = network(images)
    length = images.flatten(1).norm(dim=1, keepdim=True)
    assert torch.allclose(logits, 30 * cosines * length / length.mean(), atol=1e-4)
    assert torch.equal(logits.argmax(1), cosines.argmax(1))
    assert not torch.equal(before, cosines.argmax(1))


def test_retraining_has_no_cloud() -> None:
    images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 2])
    same, (first, cloud) = GaussianCloud(SIZES).mix(images, labels, generator(), retrains=True)
    assert torch.equal(same, images)
    assert torch.equal(first, labels)
    assert cloud.shape == (4, 3)
    assert not cloud.any()


def test_retraining_draws_by_effective_number() -> None:
    beta, sizes = 0.99, np.array([900, 90, 10])
    y = generator().permutation(np.repeat([0, 1, 2], sizes))
    objective = GaussianCloud(tuple(sizes.tolist()), beta=beta)
    rows = objective.draw(y, 100_000, generator(), retrains=True)
    effective = (1 - beta**sizes) / (1 - beta)
    expected = (sizes / effective) / (sizes / effective).sum()
    assert np.bincount(y[rows]) / 100_000 == pytest.approx(expected, abs=0.008)  # five standard errors
    assert len(np.unique(rows)) == 1000


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_training_draws_every_image_once(name: str) -> None:
    y = np.repeat([0, 1, 2], 10)
    rows = objective_of(name, np.bincount(y)).draw(y, 30, generator(), retrains=False)
    assert sorted(rows) == list(range(30))
    assert not np.array_equal(rows, np.arange(30))


def test_objectives_know_the_sizes_of_the_classes() -> None:
    sizes = PROFILES["LT-100"](5000, 10)
    assert objective_of("GCL", sizes) == GaussianCloud(tuple(sizes))
    assert objective_of("GCL", sizes).retraining == 10
    assert objective_of("CE", sizes).retraining == objective_of("mixup", sizes).retraining == 0
