"""Base class of guarded predictors."""

from types import TracebackType
from typing import Any, ClassVar, Never, Self

from mmguard.errors import CopyError, UnguardedError
from mmguard.guard.guard import Guard


class WrappedPredictor:
    """A guarded predictor, returned by `mmguard.wrap`.

    The object owns its guard: call `close()` when you are done, or use the object as a context manager.

    No call runs the model without the guard. An attribute of the predictor is forwarded only if it is known not to run
    the model. Access to any other attribute, such as an attribute added by a later version of the predictor's library,
    raises UnguardedError. This prevents calls that bypass the guard by accident. However, this is not a security
    boundary: code in the same process can always access the predictor itself.

    Args:
        predictor: the predictor.
        guard: the predictor's guard, opened only for this object.

    Attributes:
        guard: the guard.
    """

    forwarded: ClassVar[frozenset[str]] = frozenset()
    """Names of the predictor's attributes that are forwarded because they do not run the model."""
    alternatives: ClassVar[dict[str, str]] = {}
    """Advice for the error raised on access to an attribute that is not forwarded, keyed by attribute name.

    An attribute without an entry gets general advice.
    """

    def __init__(self, predictor: Any, guard: Guard) -> None:
        self._predictor = predictor
        self.guard = guard

    def close(self) -> None:
        """Close the guard and stop its threads; later predictions raise InferenceError. The predictor stays open."""
        self.guard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the predictor.

        Args:
            name: name of the attribute.

        Returns:
            The value of the attribute.

        Raises:
            UnguardedError: The attribute might run the model without the guard.
        """
        if name in self.forwarded:
            return getattr(self._predictor, name)
        advice = self.alternatives.get(
            name, "call a guarded method, or use the original predictor if the attribute does not run the model"
        )
        raise UnguardedError(
            f"attribute {name!r} of the wrapped predictor might run the model without the guard; {advice}"
        )

    def __reduce_ex__(self, protocol: object) -> Never:
        raise CopyError(
            f"a {type(self).__name__} has open sessions and threads, so it cannot be copied or pickled; call "
            "mmguard.wrap again instead"
        )
