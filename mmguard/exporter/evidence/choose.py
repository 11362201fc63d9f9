"""Choose the sites at which the original network's activations are compared with those of clean inputs."""

from collections.abc import Sequence

import numpy as np

from mmguard.exporter.sites.activation import Activation
from mmguard.types import EvidenceSite

MAX_SITES = 8
"""Maximum number of sites. Each site costs a pass over its activations."""
SKIPPED = 1 / 3
"""Share of the sites, from the input on, that are left out: they are the largest, and see little but colours and edges.
"""
MAX_CHANNELS = 4096
"""Maximum number of channels of a site."""


def choose_sites(activations: Sequence[Activation]) -> list[EvidenceSite]:
    """Choose evenly spaced sites among the later two thirds, always with the last one.

    The last site is listed twice: with the means of its channels, as all others, and then with their roots. Late
    channels are silent for most inputs, and the root keeps their rare large values from dominating the distance.

    Args:
        activations: clip sites, in the order of the graph.

    Returns:
        The sites, in the order of the graph; none if no site has a known, moderate number of channels.
    """
    known = [site for site in activations if site.channels is not None and 1 < site.channels <= MAX_CHANNELS]
    if not known:
        return []
    first = min(round(SKIPPED * len(known)), len(known) - 1)
    places = np.linspace(first, len(known) - 1, min(MAX_SITES, len(known) - first)).round().astype(int)
    chosen = [known[place] for place in np.unique(places)]
    last = chosen[-1]
    return [
        *(EvidenceSite(site.value, site.axis, "mean") for site in chosen),
        EvidenceSite(last.value, last.axis, "root"),
    ]
