"""A PyTorch module with a guard in front. Imports no PyTorch: whoever has a module has imported it."""

from typing import Any

from mmguard.bundle.bundle import Bundle
from mmguard.errors import InputError, PredictorMismatchError
from mmguard.guard.guard import Batch
from mmguard.guard.wrapping.answers import Array, answers_of
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.original import OnDecision
from mmguard.guard.wrapping.tensors import is_torch_tensor, like, to_array, torch


class GuardedModule(Face):
    """A `torch.nn.Module` in evaluation mode with a guard in front; it is no module itself.

    Takes a tensor (N, ...) and returns a tensor (N, ...) of the dtype and on the device of the module's own, without
    gradients. What tells of the module is handed through; all that changes it or leads to its parts is refused.
    """

    handed_through = frozenset({"training", "parameters", "named_parameters", "buffers", "named_buffers", "state_dict"})
    instead = dict.fromkeys(
        ("to", "cuda", "cpu", "half", "bfloat16", "float", "double", "train", "compile", "load_state_dict"),
        "change the module before you wrap it, since its answers are compared with the bundle's then",
    )

    def __init__(self, module: Any, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]) -> None:
        if any(part.training for part in module.modules()):
            raise PredictorMismatchError("the module, or a part of it, is in training mode; call its eval() first")
        self._dtype = bundle.manifest.input.dtype
        given = next(module.parameters(), None)
        device = "cpu" if given is None else given.device
        with torch().no_grad():
            self._answers = answers_of(bundle, lambda x: to_array(_run(module, x, device)), on_decision, options)
        super().__init__(module, self._answers.wrapped.guard)

    def __call__(self, x: Any) -> Any:
        """Predict a batch (N, ...) of the model's dtype; returns the module's answer (N, ...) with the policy applied.

        Raises:
            InputError: no tensor of that dtype, or one that the model does not take.
            InferenceError: the networks could not answer.
            PredictorMismatchError: the module is in training mode again, or returned no tensor.
        """
        if not is_torch_tensor(x) or x.dtype != getattr(torch(), self._dtype):
            got = x.dtype if is_torch_tensor(x) else type(x).__name__
            raise InputError(f"expected a tensor of torch.{self._dtype}, got {got}; use torch.as_tensor")
        if self._predictor.training:
            raise PredictorMismatchError("the module is in training mode; call its eval() first")
        own: Any = None

        def ask(given: Batch) -> Array:
            nonlocal own
            own = _run(self._predictor, given, x.device)
            return to_array(own)

        answer, _ = self._answers(to_array(x), ask)
        return like(own, answer)

    def forward(self, x: Any) -> Any:
        """The same as a call."""
        return self(x)

    def eval(self) -> "GuardedModule":
        """Itself: the module is in evaluation mode."""
        return self


def _run(module: Any, x: Batch, device: Any) -> Any:
    output = module(torch().tensor(x, device=device))
    if not is_torch_tensor(output):
        raise PredictorMismatchError(
            f"the module must return one tensor (N, ...), got {type(output).__name__}; wrap a module whose forward "
            "returns the logits or the probabilities"
        )
    return output
