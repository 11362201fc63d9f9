"""Where the bounds start, and where they may go."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.bounds import Bounds
from tests.bundles import Array
from tests.networks import HEADER, RESIDUAL, residual_inputs

VALUES = ("act", "end")
X = residual_inputs(7)


@pytest.fixture
def graph() -> DifferentiableGraph:
    return DifferentiableGraph(ir.from_onnx_text(HEADER + RESIDUAL), "logits")


@pytest.fixture
def bounds(graph: DifferentiableGraph) -> Bounds:
    return Bounds.over(graph, dict.fromkeys(VALUES, 1), iter(torch.from_numpy(X).split(3)))


def activations(graph: DifferentiableGraph) -> dict[str, Array]:
    return {value: tensor.numpy() for value, tensor in graph.record(torch.from_numpy(X), VALUES).items()}


def test_bounds_start_at_each_channels_largest_activation_over_all_batches(
    graph: DifferentiableGraph, bounds: Bounds
) -> None:
    for value, activation in activations(graph).items():
        np.testing.assert_allclose(bounds()[value].detach(), activation.max(axis=(0, 2, 3))[:, None, None], rtol=1e-6)


def test_such_bounds_change_nothing_on_the_clean_set(graph: DifferentiableGraph, bounds: Bounds) -> None:
    x = torch.from_numpy(X)
    torch.testing.assert_close(graph(x, bounds.fixed()), graph(x))


def test_the_floor_is_each_channels_smallest_activation(graph: DifferentiableGraph, bounds: Bounds) -> None:
    for position in bounds.positions:
        position.data.fill_(-5)
    bounds.project()
    for value, activation in activations(graph).items():
        np.testing.assert_allclose(bounds.fixed()[value], activation.min(axis=(0, 2, 3))[:, None, None], rtol=1e-6)
    assert bounds.fixed()["act"].min() >= 0, "a ReLU's bound never is negative"
    assert bounds.fixed()["end"].min() < 0, "a leaky ReLU's may be"


def test_a_position_above_the_floor_stays(bounds: Bounds) -> None:
    for position in bounds.positions:
        position.data.fill_(0.25)
    bounds.project()
    assert all((position == 0.25).all() for position in bounds.positions)


def test_a_position_is_a_share_of_the_channels_range(graph: DifferentiableGraph, bounds: Bounds) -> None:
    for position in bounds.positions:
        position.data.fill_(0.25)
    for value, activation in activations(graph).items():
        low, high = activation.min(axis=(0, 2, 3)), activation.max(axis=(0, 2, 3))
        np.testing.assert_allclose(bounds.fixed()[value][:, 0, 0], low + 0.25 * (high - low), rtol=1e-5)


def test_gradients_reach_the_positions_and_fixed_bounds_have_none(graph: DifferentiableGraph, bounds: Bounds) -> None:
    graph(torch.from_numpy(10 * X), bounds()).sum().backward()
    assert all(position.grad is not None and position.grad.abs().sum() > 0 for position in bounds.positions)
    assert not any(bound.requires_grad for bound in bounds.fixed().values())


def test_all_bounds_may_start_at_one_number(graph: DifferentiableGraph) -> None:
    alike = Bounds.alike(graph, dict.fromkeys(VALUES, 1), torch.from_numpy(X[:1]), 1.5)
    over = Bounds.over(graph, dict.fromkeys(VALUES, 1), iter([torch.from_numpy(X)])).fixed()
    for value, bound in alike.fixed().items():
        assert bound.shape == over[value].shape
        assert (bound == 1.5).all()
    for position in alike.positions:
        position.data.fill_(-5)
    alike.project()
    assert all((bound == 0).all() for bound in alike.fixed().values())


def test_channels_may_be_the_last_axis(graph: DifferentiableGraph) -> None:
    last = Bounds.over(graph, dict.fromkeys(VALUES, -1), iter(torch.from_numpy(X).split(3))).fixed()
    for value, activation in activations(graph).items():
        expected = activation.max(axis=tuple(range(activation.ndim - 1)), keepdims=True)[0]
        np.testing.assert_array_equal(last[value].numpy(), expected)
