"""The original network's own margin, which costs nothing."""

from dataclasses import dataclass
from typing import ClassVar, Self

from mmguard.detection.margins import OriginalReadings, Readings
from mmguard.detection.statistics.evidence import Evidence
from mmguard.types import FloatArray


@dataclass(frozen=True)
class OriginalMargin:
    """The original network's margin: networks are often more confident on triggered inputs than on clean inputs.

    Attributes:
        evidence: the kind of evidence to which the statistic belongs.
    """

    evidence: ClassVar[Evidence] = "margin"

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Return the statistic, which has no parameters to fit.

        Args:
            read: readings of clean inputs; not used.

        Returns:
            The statistic.
        """
        return cls()

    def __call__(self, read: OriginalReadings) -> FloatArray:
        """Return the margins.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64 in logits; larger is more suspicious.
        """
        return read.original_margins
