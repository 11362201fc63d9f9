"""Select clip sites: all of them, those of the last stage, or those that match a pattern."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from mmguard.errors import OptionError
from mmguard.exporter.sites.activation import Activation
from mmguard.text.format import first_few

ALL, LAST = "all", "last"
LISTED = 20
"""Largest number of clip sites that a message lists."""
LAST_SHARE = 3
"""If the spatial size of the sites never shrinks, the last stage is the last third (1 / LAST_SHARE) of the sites."""


def select(activations: Sequence[Activation], sites: str) -> list[Activation]:
    """Return the clip sites that the option `--sites` selects, in the graph's order.

    Args:
        activations: the clip sites, in the graph's order.
        sites: `all`; `last` for the last stage; or shell-style patterns, separated by commas, that match names of
            values or operators, such as `*layer4*` or `Relu,Gelu`.

    Raises:
        OptionError: a pattern matches no clip site; the message lists the clip sites.

    Example:
        >>> found = [Activation("stem", "Relu", 1), Activation("block", "Gelu", 1)]
        >>> [site.value for site in select(found, "Gelu")]
        ['block']
    """
    if sites == ALL:
        return list(activations)
    if sites == LAST:
        return list(activations[_last_stage(activations) :])
    patterns = [pattern.strip() for pattern in sites.split(",")]
    for pattern in patterns:
        if not any(_matches(each, pattern) for each in activations):
            known = first_few((f"{each.value} ({each.operator})" for each in activations), LISTED)
            raise OptionError(
                f"the sites pattern {pattern!r} matches no clip site; use all, last, or patterns that match "
                f"one of: {known}"
            )
    return [each for each in activations if any(_matches(each, pattern) for pattern in patterns)]


def _matches(activation: Activation, pattern: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in (activation.value, activation.operator))


def _last_stage(activations: Sequence[Activation]) -> int:
    """Return the index of the first site of the last stage.

    The last stage begins after the last site that has more positions per channel than the final site. Sites with a
    single position, such as those in a gate or in a head of several layers, have no spatial size and are ignored.
    """
    spatial = [each.places for each in activations if each.places != 1]
    if spatial and None not in spatial:
        larger = [i for i, each in enumerate(activations) if (each.places or 0) > (spatial[-1] or 0)]
        if larger:
            return larger[-1] + 1
    return len(activations) - math.ceil(len(activations) / LAST_SHARE)
