"""Eq. 4 against plain NumPy."""

import numpy as np
import pytest
import torch

from mmguard.calibrate.learning.objective import bound_norm, class_margins, fit_loss, label_loss, margin_loss
from mmguard.detection.margins import margin

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_margins_are_own_logit_minus_the_best_other(classes: int) -> None:
    logits, labels = RANDOM.normal(size=(50, classes)).astype(np.float32), RANDOM.integers(0, classes, 50)
    expected = [row[k] - max(row[j] for j in range(classes) if j != k) for row, k in zip(logits, labels, strict=True)]
    got = class_margins(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(got, margin(logits, labels), rtol=1e-5, atol=1e-6)


def test_a_margins_gradient_is_on_two_logits_alone() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0]], requires_grad=True)
    class_margins(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0]]


def test_the_first_term_is_the_mean_squared_change_of_the_logits() -> None:
    clipped, original = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert fit_loss(clipped, original).item() == pytest.approx((0 + 4 + 9 + 1) / 4)


def test_the_first_term_of_mmom_is_the_cross_entropy_with_the_labels() -> None:
    logits, labels = RANDOM.normal(size=(6, 4)), RANDOM.integers(0, 4, 6)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(6), labels]).mean()
    assert label_loss(torch.from_numpy(logits), torch.from_numpy(labels)).item() == pytest.approx(expected)


def test_the_second_term_of_mmbm_is_summed_over_activations() -> None:
    assert bound_norm([torch.tensor([[3.0]], dtype=torch.float64), torch.tensor([[6.0], [8.0]])]).item() == 13


@pytest.mark.parametrize(("hinge", "loss"), [(False, 1.0), (True, 2.0)])
def test_the_second_term_is_the_mean_margin_positive_ones_alone_if_hinged(hinge: bool, loss: float) -> None:
    margins = torch.tensor([6.0, -3.0, 0.0], requires_grad=True)
    value = margin_loss(margins, hinge)
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert margins.grad is not None
    np.testing.assert_allclose(margins.grad.numpy(), [1 / 3, 0 if hinge else 1 / 3, 0 if hinge else 1 / 3])
