"""Numbers and lists as people read them: no share is rounded to nothing or to all, no time to 0."""

import numpy as np
import pytest

from mmguard.text.format import duration, first_few, number, percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((0.0, "0 %"), (1.0, "100 %"), (1e-9, "< 0.01 %"), (0.00004, "< 0.01 %"), (0.00006, "0.01 %")),
        *((0.0123, "1.23 %"), (0.5, "50.0 %"), (0.9994, "99.9 %"), (0.9996, "> 99.9 %"), (1 - 1e-9, "> 99.9 %")),
    ],
)
def test_shares(share: float, text: str) -> None:
    assert percent(share) == text


def test_only_nothing_and_all_are_said_to_be_nothing_and_all() -> None:
    for share in (*np.linspace(0, 1, 30_001)[1:-1], *np.logspace(-12, -1, 50), *(1 - np.logspace(-12, -1, 50))):
        text = percent(float(share))
        assert text not in ("0 %", "100 %", "0.0 %", "0.00 %", "100.0 %")
        if text[0] not in "<>":
            assert abs(float(text.removesuffix(" %")) / 100 - share) <= 0.0005 + 1e-12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "1 s"), (0.4, "1 s"), (1.2, "1 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min"), (95, "1 min 40 s")),
        *((3594, "59 min 50 s"), (3596, "1 h"), (3660, "1 h 1 min"), (7199, "2 h"), (90_000, "25 h")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-1.9, "−1.9"), (0.11, "0.11"), (-0.04, "−0.04"), (0.0, "0"), (95.44, "95.4")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("n", "most", "text"),
    [
        (0, 5, ""),
        (1, 5, "0"),
        (5, 5, "0, 1, 2, 3, 4"),
        (6, 5, "0, 1, 2, 3, 4 and 1 more"),
        (999, 2, "0, 1 and 997 more"),
    ],
)
def test_lists(n: int, most: int, text: str) -> None:
    assert first_few(range(n), most) == text
