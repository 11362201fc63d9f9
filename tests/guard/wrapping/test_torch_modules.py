"""PyTorch modules: called with tensors, guarded, answered with tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmguard.errors import CopyError, InputError, PredictorMismatchError
from mmguard.guard import Guard, Policy, wrap
from mmguard.types import Decision
from tests.bundles import Array, Head, add_trigger, clean_inputs, tiny_network, write_tiny_bundle
from tests.guard.wrapping.endings import check_closes, rows_of_the_original

MIXED = np.concatenate([clean_inputs(20, seed=3), add_trigger(clean_inputs(12, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}


class Tiny(nn.Module):
    """The tiny network, written for PyTorch, with a dropout that training would turn on."""

    def __init__(self, end: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.drop, self.last = nn.Dropout(), nn.Linear(6, 3)
        weights = tiny_network().weights
        for layer, name in ((self.first, "conv1"), (self.second, "conv2"), (self.last, "fc")):
            layer.load_state_dict({key: torch.tensor(weights[f"{name}.{key}"]) for key in ("weight", "bias")})
        self.end = end

    def forward(self, x: Tensor) -> Any:
        """Logits (N, 3), or what the end makes of them."""
        features = F.relu(self.second(F.relu(self.first(x)))).mean(dim=(2, 3))
        return self.end(self.last(self.drop(features)))


def expected_of(bundle: Path, x: Array, **policy: Any) -> Array:
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        output: Array = guard.infer(x).output
        return output


@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}, {"mode": "shadow"}], ids=str)
def test_a_module_answers_with_tensors_what_the_guard_says(tiny_bundle: Path, policy: dict[str, Any]) -> None:
    module, decisions = Tiny().eval(), list[Decision]()
    safe = wrap(module, tiny_bundle, policy=Policy(**policy), on_decision=decisions.append, **OPTIONS)
    x = torch.tensor(MIXED)
    answer = safe(x)
    assert isinstance(answer, Tensor)
    assert (answer.dtype, answer.device, answer.requires_grad) == (torch.float32, x.device, False)
    np.testing.assert_allclose(answer, expected_of(tiny_bundle, MIXED, **policy), rtol=1e-4, atol=1e-4)
    own, kept = module(x).detach(), ~decisions[0].flagged
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(answer[kept], own[kept])
    np.testing.assert_array_equal(safe.forward(x).numpy(), answer.numpy())


@pytest.mark.parametrize("head", [Head.NONE, Head.SOFTMAX])
def test_probabilities_of_a_module_are_guarded_without_the_bundle_s_original(tmp_path: Path, head: Head) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", head=head)
    safe = wrap(Tiny(lambda logits: logits.softmax(dim=1)).eval(), bundle, **OPTIONS)
    rows, answer = rows_of_the_original(safe), safe(torch.tensor(MIXED))
    assert sum(rows) == 0
    expected = expected_of(write_tiny_bundle(tmp_path / "p", head=Head.SOFTMAX), MIXED)
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-5)


def test_the_answer_has_the_dtype_of_the_module_s_own(tiny_bundle: Path) -> None:
    module = Tiny(lambda logits: logits.double()).eval()
    answer = wrap(module, tiny_bundle, **OPTIONS)(torch.tensor(MIXED))
    assert answer.dtype == torch.float64


def test_answers_in_bfloat16_are_too_far_from_the_bundle_s(tiny_bundle: Path) -> None:
    with pytest.raises(PredictorMismatchError, match="differ by"):
        wrap(Tiny(lambda logits: logits.bfloat16()).eval(), tiny_bundle, **OPTIONS)


def test_a_module_runs_once_and_sees_no_gradient_of_the_guard_s(tiny_bundle: Path) -> None:
    module, seen = Tiny().eval(), list[int]()
    safe = wrap(module, tiny_bundle, **OPTIONS)
    module.register_forward_hook(lambda *_: seen.append(1))
    safe(torch.tensor(MIXED, requires_grad=True))
    assert seen == [1]


def test_a_module_that_writes_to_its_input_changes_nobody_else_s(tiny_bundle: Path) -> None:
    class Writes(Tiny):
        def forward(self, x: Tensor) -> Any:
            answer = super().forward(x)
            x.zero_()
            return answer

    given, decisions = torch.tensor(MIXED), list[Decision]()
    safe = wrap(Writes().eval(), tiny_bundle, on_decision=decisions.append, **OPTIONS)
    safe(given)
    np.testing.assert_array_equal(given, MIXED)
    with Guard(tiny_bundle, **OPTIONS) as guard:
        np.testing.assert_array_equal(decisions[0].flagged, guard(MIXED).flagged)


def test_training_mode_is_refused_before_and_after_wrapping(tiny_bundle: Path) -> None:
    module = Tiny().eval()
    module.drop.train()
    with pytest.raises(PredictorMismatchError, match=r"training mode; call its eval\(\) first"):
        wrap(module, tiny_bundle, **OPTIONS)
    safe = wrap(module.eval(), tiny_bundle, **OPTIONS)
    module.train()
    with pytest.raises(PredictorMismatchError, match="training mode"):
        safe(torch.tensor(MIXED))


def test_another_module_and_another_kind_of_answer_are_refused(tiny_bundle: Path) -> None:
    with pytest.raises(PredictorMismatchError, match=r"not the model of .*tiny\.mmguard"):
        wrap(Tiny(lambda logits: logits.flip(1)).eval(), tiny_bundle, **OPTIONS)
    with pytest.raises(PredictorMismatchError, match=r"return one tensor \(N, ...\), got dict"):
        wrap(Tiny(lambda logits: {"logits": logits}).eval(), tiny_bundle, **OPTIONS)


def test_what_is_no_tensor_of_the_model_s_dtype_is_refused(tiny_bundle: Path) -> None:
    safe = wrap(Tiny().eval(), tiny_bundle, **OPTIONS)
    with pytest.raises(InputError, match=r"a tensor of dtype torch\.float32, got ndarray"):
        safe(MIXED)
    with pytest.raises(InputError, match=r"a tensor of dtype torch\.float32, got torch\.float64"):
        safe(torch.tensor(MIXED).double())
    with pytest.raises(InputError, match="expected shape"):
        safe(torch.tensor(MIXED[0]))


def test_nothing_of_a_module_that_predicts_is_handed_through(tiny_bundle: Path) -> None:
    safe = wrap(Tiny().eval(), tiny_bundle, **OPTIONS)
    assert not safe.training
    assert safe.eval() is safe
    assert len(list(safe.parameters())) == 6
    for name in ("first", "modules", "children", "get_submodule", "_modules", "_call_impl", "register_forward_hook"):
        with pytest.raises(
            AttributeError, match=f"'{name}' of the wrapped predictor might run the model without the guard"
        ):
            getattr(safe, name)
    for name in ("to", "train", "half"):
        with pytest.raises(AttributeError, match="change the module before you wrap it"):
            getattr(safe, name)
    with pytest.raises(CopyError, match="GuardedModule"):
        safe.__reduce_ex__(4)


def test_a_guarded_module_closes_its_guard(tiny_bundle: Path) -> None:
    module, x = Tiny().eval(), torch.tensor(MIXED)
    safe = wrap(module, tiny_bundle, **OPTIONS)
    check_closes(safe, lambda: safe(x))
    assert module(x).shape == (len(MIXED), 3)
