"""The box of feasible inputs, and the ascent on margins that learning and the audit share."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mmguard.calibrate.box import Box
from mmguard.calibrate.graph import autocast
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.logits import batched_logits, logits_on
from mmguard.calibrate.margin_ascent import ascend, margin_gradients
from tests.bundles import clean_inputs, tiny_network

CLEAN = clean_inputs(20)
X = torch.from_numpy(CLEAN)
CLASSES = torch.arange(20) % 3


@pytest.fixture
def graph() -> DifferentiableGraph:
    return DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")


def test_a_box_has_a_batch_axis_and_its_changes_are_shares_of_its_width() -> None:
    box = Box.of(np.full((3, 1, 1), -1, np.float32), np.full((3, 1, 1), 3, np.float32))
    assert box.low.shape == box.high.shape == (1, 3, 1, 1)
    assert box.device.type == "cpu"
    assert (box.width == 4).all()
    changes = box.changes(0.25)
    assert (changes.low == -1).all()
    assert (changes.high == 1).all()


def test_a_step_of_ascent_ends_in_the_box() -> None:
    box, x = Box(torch.zeros(1, 2), torch.ones(1, 2)), torch.tensor([[0.25, 0.875]])
    moved = ascend(x, 0.25 * box.width, torch.tensor([[-1.0, 1.0]]), box)
    assert moved.tolist() == [[0.0, 1.0]]
    assert ascend(x, 0.125 * box.width, torch.tensor([[1.0, 1.0]]), box).tolist() == [[0.375, 1.0]]


@pytest.mark.parametrize("size", [3, 20])
def test_gradients_are_those_of_the_margins_whatever_the_size_of_a_pass(
    graph: DifferentiableGraph, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(autocast, "has_bfloat16", lambda device: False)
    bounds = {"relu1": graph.record(X, ["relu1"])["relu1"].amax((0, 2, 3))[:, None, None] / 2}
    x, passed = X.clone().requires_grad_(), list[float]()
    logits = graph(x, bounds)
    own = logits.gather(1, CLASSES[:, None])[:, 0]
    others = logits.scatter(1, CLASSES[:, None], -torch.inf).amax(1)
    (expected,) = torch.autograd.grad((own - others).sum(), x)
    found = margin_gradients(graph, bounds, X, CLASSES, size, passed.append)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(passed) == len(X)
    assert max(passed) == size


def test_logits_are_computed_in_passes_and_carry_no_gradient(graph: DifferentiableGraph) -> None:
    expected = graph(X).detach()
    found = batched_logits(graph, X, None, 7)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)
    logits = logits_on(graph, CLEAN[::-1], "cpu", 7)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[::-1], expected, rtol=1e-4, atol=1e-5)
