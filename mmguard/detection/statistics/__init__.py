"""The statistics of the MMDF test, computed from what both networks show of an input.

Each statistic belongs to one kind of evidence, by which a flag is explained.
"""

from mmguard.detection.statistics.activations import ActivationDistance, ActivationExcess, SupportedMarginGap
from mmguard.detection.statistics.evidence import Evidence
from mmguard.detection.statistics.margin_gaps import MarginGap, ResidualMarginGap
from mmguard.detection.statistics.original_margin import OriginalMargin
from mmguard.detection.statistics.residual_norms import CentredResidualNorm, ResidualNorm

OriginalStatistic = ActivationDistance | ActivationExcess | OriginalMargin
"""Statistics that read the original network only."""
Statistic = MarginGap | ResidualNorm | ActivationDistance | ActivationExcess | SupportedMarginGap | OriginalMargin
STATISTICS: dict[str, type[Statistic]] = {
    "margin_gap": MarginGap,
    "residual_margin_gap": ResidualMarginGap,
    "residual_norm": ResidualNorm,
    "centred_residual_norm": CentredResidualNorm,
    "activation_distance": ActivationDistance,
    "activation_excess": ActivationExcess,
    "supported_margin_gap": SupportedMarginGap,
    "original_margin": OriginalMargin,
}
"""The statistics, by the names used in settings and manifests."""
READ_ACTIVATIONS = frozenset({"activation_distance", "activation_excess", "supported_margin_gap"})
"""Statistics that read activations."""

__all__ = [
    "READ_ACTIVATIONS",
    "STATISTICS",
    "ActivationDistance",
    "ActivationExcess",
    "CentredResidualNorm",
    "Evidence",
    "MarginGap",
    "OriginalMargin",
    "OriginalStatistic",
    "ResidualMarginGap",
    "ResidualNorm",
    "Statistic",
    "SupportedMarginGap",
]
