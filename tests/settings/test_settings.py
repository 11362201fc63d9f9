"""Every constant is checked, presets are what they say, and a changed one is recorded as such."""

import math
from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from mmguard.detection.statistics import STATISTICS
from mmguard.errors import OptionError
from mmguard.settings import PRESETS, Settings, base_preset, preset
from mmguard.settings.presets import MMOM_WEIGHT
from mmguard.settings.settings import RULES, StatisticName

OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "objective": ("mmad", None),
    "penalty": ("heights", 1),
    "only_correct": (1, None, "yes"),
    "rounds": (0, 2.0, True, None),
    "tolerance": (-1e-9, math.nan, math.inf, 10**400),
    "bounds_start": (0.0, -1.0, math.inf),
    "learning_rate": (0.0, math.nan, None, 1e300),
    "slow_share": (-0.1, 1.1),
    "batch": (0, 1.5),
    "steps": (0, "5"),
    "margin_weight": (-1.0, math.inf, math.nan),
    "budget": (0.0, 1.5, math.nan),
    "agreement": (-0.1, 2),
    "margin_weight_factor": (0.0, -2.0),
    "margin_weight_from": (-1, 0.5),
    "margin_weight_every": (0,),
    "maximisers": (0,),
    "search_budget": (0,),
    "shared_share": (1.5,),
    "search_original": (0,),
    "normalised": ("no",),
    "first_steps": (-1,),
    "warm_steps": (-1,),
    "renew_every": (0, 1.0),
    "noise": (-0.5, 1.5),
    "sample_step": (0.0,),
    "shared_step": (0.0,),
    "shared_radius": (-1.0,),
    "hinge": (None,),
    "folds": (0, True),
    "statistics": ((), ("gap",), ("margin_gap", "margin_gap"), "margin_gap", ["margin_gap"], (["margin_gap"],)),
    "null": ("normal", None),
    "null_power": (-0.1, 2.1),
    "theta": (0.0, 1.5, math.nan, None),
    "disagreement_theta": (-0.1, 1.1),
}


def test_every_field_has_a_rule_and_a_value_that_it_rejects() -> None:
    names = [field.name for field in fields(Settings)]
    assert list(RULES) == names
    assert set(OUT_OF_RANGE) == set(names)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_value_out_of_range_is_rejected_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name} must be .*, got "):
        replace(Settings(), **{name: value})


def test_the_statistics_that_settings_name_are_those_of_the_test() -> None:
    assert set(STATISTICS) == set(get_args(StatisticName))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("objective", ["mmac", "mmom", "mmbm"])
def test_adjusted_settings_are_recorded_under_their_preset(name: str, objective: Any) -> None:
    settings = preset(name, objective, rounds=7, margin_weight=0.25)
    assert (settings.objective, settings.rounds, settings.margin_weight) == (objective, 7, 0.25)
    assert base_preset(settings) == name
    assert base_preset(replace(settings, batch=settings.batch + 1)) == "custom"


def test_options_that_a_preset_does_not_use_are_rejected() -> None:
    with pytest.raises(OptionError, match="without a test; omit theta and null"):
        preset(objective="mmom", theta=0.01)
    with pytest.raises(OptionError, match=r"to reach a budget; set margin_weight \(--margin-weight\) instead"):
        preset("paper", budget=0.1)
    with pytest.raises(OptionError, match="preset must be one of default, paper, reference, got 'best'"):
        preset("best")


def test_mmom_learns_with_a_constant_weight_and_from_wrong_decisions_too() -> None:
    for name in PRESETS:
        settings = preset(name, "mmom")
        assert (settings.margin_weight, settings.margin_weight_factor, settings.only_correct) == (MMOM_WEIGHT, 1, False)
