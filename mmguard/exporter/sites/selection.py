"""Choose among the clip sites: all, those of the last stage, or by name."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from mmguard.errors import OptionError
from mmguard.exporter.sites.activation import Activation
from mmguard.text.format import some

ALL, LAST = "all", "last"
LISTED = 20
"""Clip sites that a message lists."""
LAST_SHARE = 3
"""Of sites whose spatial size never shrinks the last stage is the last third."""


def select(activations: Sequence[Activation], sites: str) -> list[Activation]:
    """The activations that an option names, in their order.

    Args:
        sites: `all`; `last` for the last stage; or shell-style patterns, separated by commas, on names of values or
            operators, such as `*layer4*` or `Relu,Gelu`.

    Raises:
        OptionError: a pattern that fits none; the message lists the sites.
    """
    if sites == ALL:
        return list(activations)
    if sites == LAST:
        return list(activations[_last_stage(activations) :])
    patterns = [pattern.strip() for pattern in sites.split(",")]
    for pattern in patterns:
        if not any(_fits(each, pattern) for each in activations):
            known = some((f"{each.value} ({each.operator})" for each in activations), LISTED)
            raise OptionError(f"sites {pattern!r} fits no clip site; give all, last, or patterns on one of: {known}")
    return [each for each in activations if any(_fits(each, pattern) for pattern in patterns)]


def _fits(activation: Activation, pattern: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in (activation.value, activation.operator))


def _last_stage(activations: Sequence[Activation]) -> int:
    """Where it begins: after the last site that has more places than the last one with more than one place.

    Sites of a single place, such as those within a gate or a head of several layers, lie outside of space and so do not
    tell.
    """
    spatial = [each.places for each in activations if each.places != 1]
    if spatial and None not in spatial:
        larger = [i for i, each in enumerate(activations) if (each.places or 0) > (spatial[-1] or 0)]
        if larger:
            return larger[-1] + 1
    return len(activations) - math.ceil(len(activations) / LAST_SHARE)
