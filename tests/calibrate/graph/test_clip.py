"""The minimum of an activation and its bounds, beside PyTorch's own."""

import pytest
import torch

from mmguard.calibrate.graph.clip import clip


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (), (4,)])
def test_values_and_gradients_are_those_of_torch_minimum(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, 4, generator=generator).requires_grad_()
    bound = torch.randn(shape, generator=generator).requires_grad_()
    weight = torch.randn(x.shape, generator=generator)
    expected, actual = torch.minimum(x, bound), clip(x, bound)
    assert torch.equal(actual, expected)
    gradients = [torch.autograd.grad((y * weight).sum(), (x, bound)) for y in (actual, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
    (alone,) = torch.autograd.grad((clip(x, bound.detach()) * weight).sum(), x)
    assert torch.equal(alone, gradients[0][0])


def test_a_bound_that_is_just_reached_has_no_gradient() -> None:
    x, bound = torch.zeros(4).requires_grad_(), torch.zeros(1).requires_grad_()
    of_x, of_bound = torch.autograd.grad(clip(x, bound).sum(), (x, bound))
    assert torch.equal(of_x, torch.ones(4))
    assert torch.equal(of_bound, torch.zeros(1))
