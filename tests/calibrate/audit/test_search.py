"""The search for maximum margins at every scale, on the tiny network, whose class 2 has a backdoor."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from mmguard.calibrate.audit import search as audit_search
from mmguard.calibrate.audit.changes import (
    RADIUS,
    WARP_SHIFT,
    Change,
    Cover,
    Perturbation,
    Warp,
)
from mmguard.calibrate.audit.class_search import PIXELS, ClassSearch, Ground
from mmguard.calibrate.audit.pixels import by_pixel, channels_first
from mmguard.calibrate.audit.plan import JUDGED, PLACING_STEPS, SHARED_STEPS, TimeBudget
from mmguard.calibrate.audit.search import known_classes, maximum_margins, search_inputs
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph import autocast
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.types import FloatArray
from tests.bundles import TARGET, clean_inputs, tiny_bounds, tiny_network

CLEAN = clean_inputs(40)
X = torch.from_numpy(CLEAN)
BOX = Box(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))


@pytest.fixture(scope="module")
def graph() -> DifferentiableGraph:
    return DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")


@pytest.fixture(scope="module")
def margins(graph: DifferentiableGraph) -> dict[str, FloatArray]:
    return maximum_margins(graph, CLEAN, BOX, 3).margins


def start_of(graph: DifferentiableGraph) -> FloatArray:
    """Mean margin of each class over clean inputs that are decided for others."""
    with torch.no_grad():
        logits = graph(X)
    own = []
    for label in range(3):
        rows = logits[logits.argmax(1) != label]
        own.append(float((rows[:, label] - rows[:, [other for other in range(3) if other != label]].amax(1)).mean()))
    return np.array(own)


def test_every_scale_raises_the_margin_of_every_class(
    graph: DifferentiableGraph, margins: dict[str, FloatArray]
) -> None:
    assert list(margins) == ["sample", "orthogonal", "pixels", "shared", "warp"]
    for by_class in margins.values():
        assert by_class.shape == (3,)
        assert by_class.dtype == np.float64
    for scale in ("sample", "shared", "pixels"):
        assert (margins[scale] > start_of(graph)).all(), scale
    assert margins["warp"].mean() > start_of(graph).mean()
    assert (margins["sample"] > margins["shared"]).all()


def test_bounds_lower_the_margin_of_the_backdoors_class(
    graph: DifferentiableGraph, margins: dict[str, FloatArray]
) -> None:
    bounds = {value: bound.astype(np.float32) for value, bound in tiny_bounds(tiny_network()).items()}
    clipped = maximum_margins(graph, CLEAN, BOX, 3, bounds).margins
    assert clipped["sample"][TARGET] < 0.5 * margins["sample"][TARGET]


def test_the_seed_decides_all(graph: DifferentiableGraph, margins: dict[str, FloatArray]) -> None:
    again, other = (maximum_margins(graph, CLEAN, BOX, 3, seed=seed).margins for seed in (0, 1))
    for scale, by_class in margins.items():
        np.testing.assert_array_equal(again[scale], by_class)
        assert (other[scale] != by_class).any()


def test_a_step_in_parts_is_the_same_step(graph: DifferentiableGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "has_bfloat16", lambda device: False)
    whole = search_of(graph)
    classes = torch.arange(3).repeat_interleave(4)
    expected = whole._gradients(X[:12], classes)
    torch.testing.assert_close(search_of(graph, chunk=5)._gradients(X[:12], classes), expected, rtol=1e-4, atol=1e-5)


def search_of(graph: DifferentiableGraph, chunk: int = 200, share: float = 1.0) -> ClassSearch:
    with torch.no_grad():
        decisions = graph(X).argmax(1)
    ground = Ground(graph, X, decisions, BOX, None, chunk)
    return ClassSearch(ground, torch.arange(3), torch.Generator().manual_seed(0), 3, share)


def test_inputs_that_share_a_change_are_decided_for_other_classes(graph: DifferentiableGraph) -> None:
    classes = torch.arange(3).repeat_interleave(50)
    with torch.no_grad():
        assert (graph(search_of(graph)._draw(classes)).argmax(1) != classes).all()


def test_where_every_input_is_of_one_class_all_of_them_are_drawn(graph: DifferentiableGraph) -> None:
    with torch.no_grad():
        decisions = graph(X).argmax(1)
    label = int(decisions[0])
    alike = CLEAN[(decisions == label).numpy()]
    found = maximum_margins(graph, alike, BOX, 3).margins
    assert all(np.isfinite(by_class).all() for by_class in found.values())


def test_steps_of_a_shared_change_fall_towards_nothing(graph: DifferentiableGraph) -> None:
    sizes = []

    class Recorded(Perturbation):
        def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
            sizes.append(size)
            return super().step(parameters, gradient, size)

    search_of(graph).shared(Recorded(X[:1], BOX), SHARED_STEPS)
    np.testing.assert_allclose(sizes, np.arange(SHARED_STEPS, 0, -1) / SHARED_STEPS)


def test_few_pixels_are_covered(graph: DifferentiableGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Cover] = []

    def record(search: ClassSearch, change: Cover, parameters: Tensor) -> Tensor:
        judged.append(change)
        assert parameters.min() >= 0
        assert parameters.max() <= 1
        return torch.zeros(3)

    monkeypatch.setattr(ClassSearch, "_judged", record)
    search_of(graph).pixels(PLACING_STEPS, SHARED_STEPS)
    (change,) = judged
    assert change.shown.shape == (3 * JUDGED, 1, 8, 8)
    assert (change.shown.flatten(1).sum(1) == round(64 * PIXELS)).all()


@pytest.mark.parametrize("change", [Perturbation(X[:1], BOX), Warp(X[:1])])
def test_a_change_starts_from_nothing_and_goes_no_farther_than_it_may(change: Change) -> None:
    parameters = change.start(len(X))
    torch.testing.assert_close(change.apply(X, parameters), X, atol=1e-5, rtol=0)
    for _ in range(50):
        parameters = change.step(parameters, torch.randn(parameters.shape, generator=torch.Generator()), 1.0)
    changed = change.apply(X, parameters)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert parameters.abs().max() <= (RADIUS if isinstance(change, Perturbation) else 2 * WARP_SHIFT) + 1e-6


def test_a_warp_takes_pixels_from_where_it_says() -> None:
    shifts = torch.zeros(len(X), 2, 5, 5)
    shifts[:, 0] = 2 / 8  # one pixel of eight, in units of half the width: from the right
    warped = Warp(X[:1]).apply(X, shifts)
    torch.testing.assert_close(warped[..., :-1], X[..., 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(warped[..., -1], X[..., -1], atol=1e-5, rtol=0)


def test_images_may_have_their_channels_last() -> None:
    last = X.movedim(1, -1).contiguous()
    assert channels_first(X)
    assert not channels_first(last)
    assert by_pixel(X).shape == (40, 1, 8, 8)
    assert by_pixel(last).shape == (40, 8, 8, 1)
    shifts = torch.randn(len(X), 2, 5, 5, generator=torch.Generator().manual_seed(0)) / 8
    torch.testing.assert_close(Warp(last[:1]).apply(last, shifts), Warp(X[:1]).apply(X, shifts).movedim(1, -1))


def test_vectors_have_no_warps() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] logits)
    <float[4, 3] w = {1, 0, -1, 2, 1, 0, 0, 1, 3, -1, 0, 1}> { logits = MatMul(x, w) }"""
    graph = DifferentiableGraph(ir.from_onnx_text(text), "logits")
    x = np.random.default_rng(0).random((30, 4), dtype=np.float32)
    found = maximum_margins(graph, x, Box(torch.zeros(4), torch.ones(4)), 3).margins
    assert list(found) == ["sample", "pixels", "shared"], "a network of one layer has no features"
    assert by_pixel(torch.from_numpy(x)).shape == x.shape


@pytest.mark.parametrize("classes", [3, 40, 1000])
def test_the_work_that_is_announced_is_the_work_that_is_done(classes: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, float[4, {classes}] w) => (float[N, {classes}] logits) {{ logits = MatMul(x, w) }}"""
    model, random = ir.from_onnx_text(text), np.random.default_rng(0)
    weight = model.graph.inputs.pop()
    weight.const_value = ir.tensor(random.normal(size=(4, classes)).astype(np.float32), name="w")
    model.graph.register_initializer(weight)
    x, done = random.random((30, 4), dtype=np.float32), [0.0]

    def add(inputs: float) -> None:
        done[0] += inputs

    maximum_margins(
        DifferentiableGraph(model, "logits"),
        x,
        Box(torch.zeros(4), torch.ones(4)),
        classes,
        on_inputs=add,
    )
    assert done[0] == pytest.approx(search_inputs(x, classes, 0))


def test_the_work_on_images_is_announced_with_their_warps(graph: DifferentiableGraph) -> None:
    done: list[float] = []
    maximum_margins(graph, CLEAN, BOX, 3, on_inputs=done.append)
    with torch.no_grad():
        known = known_classes(graph(X).argmax(1).numpy(), 3)
    assert sum(done) == pytest.approx(search_inputs(CLEAN, 3, known))


def test_classes_are_searched_in_blocks_where_memory_is_short(
    graph: DifferentiableGraph, margins: dict[str, FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_search, "BLOCK", 1)
    blocks = maximum_margins(graph, CLEAN, BOX, 3).margins
    assert list(blocks) == list(margins)
    np.testing.assert_allclose(blocks["sample"], margins["sample"], rtol=0.3)  # other random numbers, same maxima


def test_a_scale_does_not_depend_on_those_before_it(graph: DifferentiableGraph, margins: dict[str, FloatArray]) -> None:
    found = maximum_margins(graph, CLEAN, BOX, 3, shares={"shared": 1.0})
    assert list(found.margins) == ["shared"]
    np.testing.assert_array_equal(found.margins["shared"], margins["shared"])
    assert set(found.cut) == {"sample", "orthogonal", "pixels", "warp"}


def test_a_search_out_of_time_stops_and_says_what_it_left_out(graph: DifferentiableGraph) -> None:
    ticks = iter(range(10_000))
    found = maximum_margins(graph, CLEAN, BOX, 3, budget=TimeBudget(40.0, 1e-9, lambda: next(ticks)))
    assert list(found.margins) == ["sample"], "the clock advances by a second whenever it is read"
    assert set(found.cut) == {"orthogonal", "pixels", "shared", "warp"}
    assert found.shares["sample"] == 1


def test_a_budget_that_suffices_changes_nothing(graph: DifferentiableGraph, margins: dict[str, FloatArray]) -> None:
    found = maximum_margins(graph, CLEAN, BOX, 3, budget=TimeBudget(1e6, 1e-3))
    assert found.cut == ()
    for scale, by_class in margins.items():
        np.testing.assert_array_equal(found.margins[scale], by_class)
