"""The margin search on the tiny network, whose class 2 has a backdoor."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from mmguard.calibrate.box import Box
from mmguard.calibrate.graph import autocast
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.margin_search import MarginSearch
from mmguard.settings.settings import Settings
from tests.bundles import clean_inputs, tiny_network
from tests.networks import HEADER, RESIDUAL, residual_inputs

SETTINGS = Settings(maximisers=6, batch=20)
CLEAN = torch.from_numpy(clean_inputs(40))
BOX = Box(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))


@pytest.fixture(scope="module")
def graph() -> DifferentiableGraph:
    return DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")


def search_of(graph: DifferentiableGraph, settings: Settings = SETTINGS, seed: int = 0, box: Box = BOX) -> MarginSearch:
    return MarginSearch(graph, CLEAN, box, 3, settings, torch.Generator().manual_seed(seed))


def test_margins_of_every_class_rise_with_the_steps(graph: DifferentiableGraph) -> None:
    search = search_of(graph)
    margins = [search.margins(None)]
    for steps in (5, 25):
        search.ascend(None, steps)
        margins.append(search.margins(None))
    assert (margins[1] > margins[0]).all()
    assert (margins[2] > margins[1]).all()


def test_every_class_is_searched_alike(graph: DifferentiableGraph) -> None:
    search = search_of(graph, replace(SETTINGS, maximisers=7))
    search.ascend(None, 1)
    assert torch.bincount(search.classes).tolist() == [7, 7, 7]
    assert search.maximisers().shape == (21, 3, 8, 8)


def test_margins_are_those_of_the_maximisers(graph: DifferentiableGraph) -> None:
    search = search_of(graph)
    search.ascend(None, 3)
    logits, classes = graph(search.maximisers()), search.classes
    for label in range(3):
        rows = logits[classes == label]
        others = rows[:, [other for other in range(3) if other != label]].amax(dim=1)
        torch.testing.assert_close(search.margins(None)[label], (rows[:, label] - others).mean())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.6)])
def test_maximisers_stay_in_the_box(graph: DifferentiableGraph, low: float, high: float) -> None:
    box = Box(torch.full((1, 3, 1, 1), low), torch.full((1, 3, 1, 1), high))
    search = search_of(graph, replace(SETTINGS, sample_step=0.5, shared_step=0.5, shared_radius=2.0), box=box)
    search.ascend(None, 4)
    assert search.maximisers().min() >= low
    assert search.maximisers().max() <= high


def shared_part(search: MarginSearch) -> Tensor:
    """The maximisers that share a perturbation: the second half."""
    return search.maximisers()[len(search.classes) // 2 :]


def test_a_shared_perturbation_stays_within_its_radius(graph: DifferentiableGraph) -> None:
    settings = replace(SETTINGS, shared_step=0.02, shared_radius=0.05)
    search = search_of(graph, settings)
    search.ascend(None, 10)
    distances = (shared_part(search)[:, None] - CLEAN).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    assert distances.max() <= 0.05 + 1e-6
    assert distances.max() > 0.04, "ten steps of 0.02 reach the radius"


def test_inputs_of_a_class_share_one_perturbation(graph: DifferentiableGraph) -> None:
    search = search_of(graph, replace(SETTINGS, shared_step=0.01, shared_radius=0.05))
    search.ascend(None, 3)
    for rows in shared_part(search).split(3):
        nearest = CLEAN[(rows[:, None] - CLEAN).abs().amax(dim=(2, 3, 4)).argmin(dim=1)]
        # Where the box cuts nothing off, the difference from the clean input is the same in every row.
        inside = ((rows > 0) & (rows < 1)).all(dim=0)
        moved = (rows - nearest)[:, inside]
        torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-6, rtol=0)


def test_the_search_is_of_the_clipped_network_where_bounds_are_given(graph: DifferentiableGraph) -> None:
    largest = graph.record(CLEAN, ["relu1"])["relu1"].amax((0, 2, 3))
    tight = {"relu1": 0.5 * largest[:, None, None]}
    free, held = search_of(graph), search_of(graph)
    free.ascend(None, 20)
    held.ascend(tight, 20)
    assert held.margins(tight).mean() > free.margins(tight).mean()
    assert held.margins(tight).mean() < free.margins(None).mean()


def test_the_same_seed_gives_the_same_maximisers(graph: DifferentiableGraph) -> None:
    found = []
    for seed in (3, 3, 4):
        search = search_of(graph, seed=seed)
        search.ascend(None, 3)
        found.append(search.maximisers())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_two_classes_can_be_searched() -> None:
    graph = DifferentiableGraph(ir.from_onnx_text(HEADER + RESIDUAL), "logits")
    clean = residual_inputs(30)
    box = Box(*(torch.full((1, 2, 1, 1), end) for end in (float(clean.min()), float(clean.max()))))
    search = MarginSearch(graph, torch.from_numpy(clean), box, 2, SETTINGS, torch.Generator().manual_seed(0))
    before = search.margins(None)
    search.ascend(None, 10)
    assert np.all((search.margins(None) > before).numpy())


def test_all_maximisers_may_be_searched_alone_or_all_together(graph: DifferentiableGraph) -> None:
    for share in (0.0, 1.0):
        search = search_of(graph, replace(SETTINGS, shared_share=share))
        before = search.margins(None)
        search.ascend(None, 10)
        assert len(search.classes) == 18
        assert (search.margins(None) > before).all()
        inside = (search.maximisers()[:, None] - CLEAN).abs().amax(dim=(2, 3, 4)).amin(dim=1) < 0.05
        assert inside.all() == (share == 1.0)


def test_a_plain_step_goes_along_the_gradient_in_shares_of_the_box(
    graph: DifferentiableGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autocast, "has_bfloat16", lambda device: False)
    box = Box(torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 2.0))
    settings = replace(SETTINGS, shared_share=0.0, normalised=False, sample_step=1e-3)
    search = search_of(graph, settings, box=box)
    x = search.maximisers().requires_grad_()
    logits = graph(x)
    own = logits.gather(1, search.classes[:, None])[:, 0]
    others = logits.scatter(1, search.classes[:, None], -torch.inf).amax(dim=1)
    (gradient,) = torch.autograd.grad((own - others).sum(), x)
    search.ascend(None, 1)
    torch.testing.assert_close(search.maximisers(), box.clamp(x.detach() + 1e-3 * 2.0 * 2.0 * gradient))


def test_a_search_that_starts_anew_forgets_what_it_found(graph: DifferentiableGraph) -> None:
    search = search_of(graph)
    search.ascend(None, 30)
    found, best = search.maximisers(), search.margins(None)
    search.restart()
    assert not torch.equal(search.maximisers(), found)
    assert (search.margins(None) < best).all()


def test_bfloat16_finds_the_margins_that_float32_finds(
    graph: DifferentiableGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for reduced in (False, True):
        monkeypatch.setattr(autocast, "has_bfloat16", lambda device, reduced=reduced: reduced)
        search = search_of(graph, replace(SETTINGS, normalised=True))
        search.ascend(None, 15)
        found.append(search.margins(None))
    torch.testing.assert_close(found[1], found[0], rtol=0.1, atol=0.05)
