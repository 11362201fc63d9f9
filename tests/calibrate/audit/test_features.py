"""What is typical of each class, on features with a closed form."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mmguard.calibrate.audit.features import ENOUGH, WEIGHT, class_features, last_features
from mmguard.calibrate.graph.differentiable import DifferentiableGraph

N = 40
DECISIONS = torch.arange(N) % 2
FEATURES = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
FEATURES[:, 0] += 8.0 * DECISIONS
LOGITS = torch.stack([3.0 - 6.0 * DECISIONS, torch.zeros(N), torch.full((N,), -9.0)], dim=1)
"""Class 0 has a margin of 3 on its inputs and of -3 on others, class 1 the reverse, and class 2 has no inputs."""
TYPICAL = class_features("f", FEATURES, LOGITS)


def test_along_its_direction_a_class_exceeds_all_others_by_one() -> None:
    for label in (0, 1):
        along = FEATURES @ TYPICAL.directions[label]
        own, others = along[label == DECISIONS].mean(), along[label != DECISIONS].mean()
        assert float(own - others) == pytest.approx(1.0, abs=1e-5)
    assert int(TYPICAL.directions[1].abs().argmax()) == 0, "only the first feature differs"


def test_margins_of_clean_inputs_by_hand() -> None:
    torch.testing.assert_close(TYPICAL.typical[:2], torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(TYPICAL.spans[:2], torch.tensor([6.0, 6.0]))


def test_classes_with_few_inputs_are_unknown() -> None:
    assert TYPICAL.known.tolist() == [True, True, False]
    few = class_features("f", FEATURES[: 2 * ENOUGH - 2], LOGITS[: 2 * ENOUGH - 2])
    assert not few.known.any()
    assert not few.directions.any()


def test_the_features_of_a_class_cost_more_than_the_margin_that_they_explain() -> None:
    rows, classes = torch.tensor([0]), torch.tensor([1])
    mean = FEATURES[DECISIONS == 1].mean(0) - FEATURES[DECISIONS == 0].mean(0)
    moved = FEATURES[rows] + mean
    excess = TYPICAL.excess(LOGITS[1:2], moved, rows, classes)
    assert float(excess) == pytest.approx(3.0 - WEIGHT * 6.0, rel=1e-4)
    back = TYPICAL.excess(LOGITS[1:2], FEATURES[rows] - mean, rows, classes)
    assert float(back) == pytest.approx(3.0), "features of other classes are free"


def test_the_features_are_the_input_of_the_last_linear_layer() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] logits)
    <float[4, 5] w = {1, 0, -1, 2, 1, 0, 0, 1, 3, -1, 0, 1, 1, 2, 0, 1, 0, 1, 1, 0},
     float[5, 3] v = {1, 0, -1, 2, 1, 0, 0, 1, 3, -1, 0, 1, 1, 2, 0}, float[3] b = {1, 2, 3}>
    { a = MatMul(x, w) h = Relu(a) m = MatMul(h, v) logits = Add(m, b) }"""
    graph = DifferentiableGraph(ir.from_onnx_text(text), "logits")
    x = torch.from_numpy(np.random.default_rng(0).random((5, 4), dtype=np.float32))
    assert last_features(graph, x, 3) == "h"
