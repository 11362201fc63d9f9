"""A guarded PyTorch module.

This file does not import PyTorch, because a caller that passes a PyTorch module has already imported PyTorch.
"""

from typing import Any

from mmguard.bundle.bundle import Bundle
from mmguard.errors import InputError, PredictorMismatchError
from mmguard.guard.guard import Batch
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.guard.wrapping.guarded_call import Array, guard_call
from mmguard.guard.wrapping.predictor_guard import OnDecision
from mmguard.guard.wrapping.tensors import is_torch_tensor, like, to_array, torch


class GuardedModule(WrappedPredictor):
    """A guarded `torch.nn.Module` in evaluation mode. It is not a module itself.

    Takes a tensor (N, ...) and returns a tensor (N, ...) without gradients, with the dtype and the device of the
    module's own output. Attributes that describe the module are forwarded. Attributes that change the module or give
    access to its parts are not forwarded.

    Args:
        module: the module.
        bundle: the guard bundle of the module.
        on_decision: called with the decision for each batch.
        options: options of `Guard`.

    Raises:
        PredictorMismatchError: The module, or a part of it, is in training mode.
    """

    forwarded = frozenset({"training", "parameters", "named_parameters", "buffers", "named_buffers", "state_dict"})
    alternatives = dict.fromkeys(
        ("to", "cuda", "cpu", "half", "bfloat16", "float", "double", "train", "compile", "load_state_dict"),
        "change the module before you wrap it, because wrap compares the module's outputs "
        "with the outputs of the bundle's model",
    )

    def __init__(self, module: Any, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]) -> None:
        if any(part.training for part in module.modules()):
            raise PredictorMismatchError("the module, or a part of it, is in training mode; call its eval() first")
        self._dtype = bundle.manifest.input.dtype
        parameter = next(module.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
        with torch().no_grad():
            self._call = guard_call(bundle, lambda x: to_array(_run(module, x, device)), on_decision, options)
        super().__init__(module, self._call.predictor_guard.guard)

    def __call__(self, x: Any) -> Any:
        """Predict a batch.

        Args:
            x: a tensor (N, ...) of the model's dtype.

        Returns:
            The module's output (N, ...) with the policy applied.

        Raises:
            InputError: `x` is not a tensor of the model's dtype, or the model does not accept the shape or the values
                of `x`.
            InferenceError: A network failed, or the guard is closed.
            PredictorMismatchError: The module has been switched back to training mode, or did not return a tensor.
        """
        if not is_torch_tensor(x) or x.dtype != getattr(torch(), self._dtype):
            got = x.dtype if is_torch_tensor(x) else type(x).__name__
            raise InputError(
                f"expected a tensor of dtype torch.{self._dtype}, got {got}; convert the input with torch.as_tensor"
            )
        if self._predictor.training:
            raise PredictorMismatchError("the module is in training mode; call its eval() first")
        own: Any = None

        def run(given: Batch) -> Array:
            nonlocal own
            own = _run(self._predictor, given, x.device)
            return to_array(own)

        answer, _ = self._call(to_array(x), run)
        return like(own, answer)

    def forward(self, x: Any) -> Any:
        """Predict a batch. This is the same as calling the object.

        Args:
            x: a tensor (N, ...) of the model's dtype.

        Returns:
            The module's output (N, ...) with the policy applied.
        """
        return self(x)

    def eval(self) -> "GuardedModule":
        """Return the object itself, because the module is already in evaluation mode."""
        return self


def _run(module: Any, x: Batch, device: Any) -> Any:
    output = module(torch().tensor(x, device=device))
    if not is_torch_tensor(output):
        raise PredictorMismatchError(
            f"the module must return one tensor (N, ...), got {type(output).__name__}; wrap a module whose forward "
            "returns the logits or the probabilities"
        )
    return output
