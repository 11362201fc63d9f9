import pytest

from mmguard.errors import OverloadError, RequestTooLargeError
from mmguard.guard.serving.memory_budget import MemoryBudget


def test_a_reservation_is_released_at_the_end() -> None:
    budget = MemoryBudget(10)
    with budget.reserve() as first, budget.reserve() as second:
        first.resize(8)
        with pytest.raises(OverloadError, match="out of memory for requests"):
            second.resize(3)
        first.resize(7)
        second.resize(3)
    with budget.reserve() as third:
        third.resize(10)


def test_a_request_larger_than_the_budget_never_fits() -> None:
    with MemoryBudget(10).reserve() as reservation, pytest.raises(RequestTooLargeError, match="split the batch"):
        reservation.resize(11)
