from typing import Any

import pytest

from mmguard.errors import OptionError
from mmguard.guard import Policy


def test_the_default_corrects_and_raises() -> None:
    assert Policy() == Policy("enforce", "correct", "raise", None)
    assert Policy().corrects
    assert not Policy().abstains


@pytest.mark.parametrize(
    ("policy", "corrects", "abstains"),
    [
        (Policy(on_flag="abstain"), False, True),
        (Policy(on_flag="original"), False, False),
        (Policy(mode="shadow", on_flag="correct"), False, False),
        (Policy(mode="shadow", on_flag="abstain"), False, False),
    ],
)
def test_shadow_changes_no_label(policy: Policy, corrects: bool, abstains: bool) -> None:
    assert (policy.corrects, policy.abstains) == (corrects, abstains)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "off"},
        {"mode": "Enforce"},
        {"on_flag": "reject"},
        {"on_flag": None},
        {"on_error": "ignore"},
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
    ],
)
def test_an_option_that_is_none_of_its_values_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Policy(**options)


def test_a_refusal_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="enforce, shadow"):
        Policy(mode="off")  # type: ignore[arg-type]
