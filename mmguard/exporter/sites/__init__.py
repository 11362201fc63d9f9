"""Where a network is clipped: its activations, and on which axis each has its channels."""

from mmguard.exporter.sites.activation import Activation, LeftOut, Reason
from mmguard.exporter.sites.find import BOUND_SUFFIX, CLIPPED_SUFFIX, Survey, find_activations, require_sites, survey

__all__ = [
    "BOUND_SUFFIX",
    "CLIPPED_SUFFIX",
    "Activation",
    "LeftOut",
    "Reason",
    "Survey",
    "find_activations",
    "require_sites",
    "survey",
]
