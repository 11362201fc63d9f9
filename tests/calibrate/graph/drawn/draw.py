"""Helpers of the functions that draw nodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

T = TypeVar("T")
Array = npt.NDArray[Any]
F32 = np.dtype(np.float32)


@dataclass(eq=False)
class Value:
    """A value of the graph so far, with the result of ONNX Runtime."""

    name: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dims(self) -> int:
        return self.array.ndim

    @property
    def floats(self) -> bool:
        return self.array.dtype == F32


@dataclass(eq=False)
class Drawn:
    """A node. Its inputs are values of the graph, constants, outputs of nodes drawn with it (the first, or the one with
    a given index), or None if omitted."""

    operator: str
    inputs: Sequence["Value | Array | Drawn | tuple[Drawn, int] | None"]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    domain: str = ""


class Draw:
    """Choices for one graph of one opset."""

    any_batch = True
    """Whether the nodes so far are valid for other batch sizes that ONNX Runtime accepts."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], opset: int) -> None:
        self._draw = draw
        self.opset = opset
        self.pool: list[Value] = []
        self._names = 0
        self._random = np.random.default_rng(draw(st.integers(0, 2**16)))

    def fresh(self, kind: str) -> str:
        """Return a name that no other value has."""
        self._names += 1
        return f"{kind}{self._names}"

    def one(self, *options: T) -> T:
        chosen: T = self._draw(st.sampled_from(options))
        return chosen

    def whole(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return [options[i] for i in self.permuted(len(options))]

    def flag(self) -> bool:
        return bool(self._draw(st.booleans()))

    def number(self, low: float, high: float) -> float:
        return float(np.float32(self._random.uniform(low, high)))

    def floats(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Array:
        """Draw floats, one time in three on a coarse grid, so that there are ties and halves."""
        values = self.uneven(*shape, low=low, high=high)
        return np.asarray(np.clip(np.round(values * 4) / 4, low, high) if self.whole(0, 2) == 0 else values, np.float32)

    def uneven(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Array:
        """Draw floats without ties and halves."""
        return np.asarray(self._random.uniform(low, high, shape), np.float32)

    def ints(self, *shape: int, low: int = 0, high: int = 1, dtype: npt.DTypeLike = np.int64) -> Array:
        return np.asarray(self._random.integers(low, high, shape, endpoint=True), dtype)

    def bools(self, *shape: int) -> Array:
        return np.asarray(self._random.random(shape) < 0.6)

    def permuted(self, count: int) -> list[int]:
        return [int(i) for i in self._random.permutation(count)]

    def axis(self, dims: int, negative_since: int = 11) -> int:
        """Draw an axis, negative half of the time from opset `negative_since` on."""
        axis = self.whole(0, dims - 1)
        return axis - dims if self.opset >= negative_since and self.flag() else axis

    def axes(self, dims: int, negative_since: int = 11) -> list[int]:
        """Draw one or more of the axes, in any order."""
        chosen = self.permuted(dims)[: self.whole(1, dims)]
        return [axis - dims if self.opset >= negative_since and self.flag() else axis for axis in chosen]

    def broadcast(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Draw a shape that broadcasts to the given one."""
        kept = self.whole(0, len(shape))
        return tuple(n if self.flag() else 1 for n in shape[len(shape) - kept :])

    def partner(self, x: Value) -> "Value | Array":
        """Draw an operand for x: a value of the graph with its dtype that broadcasts to it, or a constant."""
        fitting = [v for v in self.pool if v.array.dtype == x.array.dtype and _broadcasts(v.shape, x.shape)]
        if fitting and self.flag():
            return self.one(*fitting)
        return self.constant(x, self.broadcast(x.shape))

    def constant(self, x: Value, shape: Sequence[int]) -> Array:
        """Draw a constant of the dtype of x."""
        if x.floats:
            return self.floats(*shape)
        if x.array.dtype == np.bool_:
            return self.bools(*shape)
        return self.ints(*shape, low=1, high=5, dtype=x.array.dtype)


def _broadcasts(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(shape, other)
    except ValueError:
        return False
    return True


Drawer = Callable[[Draw, str, Value], "Drawn | list[Drawn] | None"]
"""Draws a node of an operator that reads a value, or several nodes, the last of which counts; None if it cannot."""

DRAWN: dict[tuple[str, str], Drawer] = {}
"""Functions that draw nodes, by (domain, operator)."""


def draws(*operators: str, domain: str = "") -> Callable[[Drawer], Drawer]:
    """Register the decorated function for the operators."""

    def register(drawer: Drawer) -> Drawer:
        DRAWN.update({(domain, operator): drawer for operator in operators})
        return drawer

    return register


def subset(draw: Draw, **attributes: Any) -> dict[str, Any]:
    """Draw a subset of the attributes; the others keep their defaults."""
    return {name: value for name, value in attributes.items() if draw.flag()}


def as_input(values: Sequence[int]) -> Array:
    return np.array(values, np.int64)
