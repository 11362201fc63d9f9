"""What all guarded predictors have in common."""

from typing import Any, ClassVar, Never

from mmguard.errors import CopyError, UnguardedError
from mmguard.guard.guard import Guard


class Face:
    """A predictor with a guard in front.

    Nothing that runs the model passes the guard: an attribute of the predictor is handed through only where it is known
    not to run it. Any other, such as one that a later version of its library adds, is refused. This keeps calls from
    missing the guard by accident; code in the same process can always reach the predictor itself.

    Attributes:
        guard: the guard in front.
    """

    handed_through: ClassVar[frozenset[str]] = frozenset()
    """Attributes of the predictor that do not run its model."""
    instead: ClassVar[dict[str, str]] = {}
    """What to do instead of some that are refused."""

    def __init__(self, predictor: Any, guard: Guard) -> None:
        self._predictor = predictor
        self.guard = guard

    def __getattr__(self, name: str) -> Any:
        """An attribute of the predictor's own.

        Raises:
            UnguardedError: it runs the model past the guard, or might.
        """
        if name in self.handed_through:
            return getattr(self._predictor, name)
        advice = self.instead.get(name, "use what the guard answers, or the predictor itself for what predicts nothing")
        raise UnguardedError(f"{name!r} of the wrapped predictor might run its model past the guard; {advice}")

    def __reduce_ex__(self, protocol: object) -> Never:
        raise CopyError(
            f"a {type(self).__name__} holds open sessions and threads, so it cannot be copied or pickled; call "
            "mmguard.wrap again where it is needed"
        )
