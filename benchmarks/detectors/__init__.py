"""Input detectors by name: the peers that mmguard is compared with, and two free baselines."""

from collections.abc import Callable
from functools import partial

from benchmarks.detectors import beatrix, ibd_psc, mahalanobis, scale_up, strip, ted
from benchmarks.detectors.beatrix import Beatrix
from benchmarks.detectors.confidence import MaxSoftmax, OriginalMargin
from benchmarks.detectors.ibd_psc import IbdPsc
from benchmarks.detectors.mahalanobis import Mahalanobis
from benchmarks.detectors.mmdf import Mmdf
from benchmarks.detectors.protocol import THETA, Detector, Judge, Verdicts
from benchmarks.detectors.scale_up import ScaleUp
from benchmarks.detectors.strip import Strip
from benchmarks.detectors.ted import Ted
from benchmarks.detectors.ted_last import TedLast
from benchmarks.published import Published

DETECTORS: dict[str, Callable[[], Detector]] = {
    "MMDF": Mmdf,
    "STRIP": Strip,
    "SCALE-UP": ScaleUp,
    "SCALE-UP data-free": partial(ScaleUp, data_limited=False),
    "IBD-PSC": IbdPsc,
    "TED": Ted,
    "TED++": partial(Ted, tube=0.5, per_class=5),
    "TED-LaST": TedLast,
    "Mahalanobis": Mahalanobis,
    "Beatrix": Beatrix,
    "max softmax": MaxSoftmax,
    "original margin": OriginalMargin,
    "MMDF paper": partial(Mmdf, preset="paper"),
    "MMDF reference": partial(Mmdf, preset="reference"),
}
ON_REQUEST = frozenset({"MMDF paper", "MMDF reference"})
"""Calibrations that take half an hour on two cores, and therefore only run if named."""

PUBLISHED: dict[str, Published] = {
    "STRIP": strip.PUBLISHED,
    "SCALE-UP": scale_up.PUBLISHED,
    "SCALE-UP data-free": scale_up.PUBLISHED_DATA_FREE,
    "IBD-PSC": ibd_psc.PUBLISHED,
    "TED": ted.PUBLISHED,
    "TED++": ted.PUBLISHED_TUBE,
    "Mahalanobis": mahalanobis.PUBLISHED,
    "Beatrix": beatrix.PUBLISHED,
}
"""Figures that the peers' papers report, named as in `benchmarks.detection`."""

__all__ = [
    "DETECTORS",
    "ON_REQUEST",
    "PUBLISHED",
    "THETA",
    "Beatrix",
    "Detector",
    "IbdPsc",
    "Judge",
    "Mahalanobis",
    "MaxSoftmax",
    "Mmdf",
    "OriginalMargin",
    "ScaleUp",
    "Strip",
    "Ted",
    "TedLast",
    "Verdicts",
]
