"""Post-training mitigations, by name."""

from collections.abc import Callable
from functools import partial

from benchmarks.defences import attention_distillation, fine_pruning, ibau, mmbm, neural_cleanse
from benchmarks.defences.attention_distillation import AttentionDistillation
from benchmarks.defences.clipping import Mmac, Mmdf
from benchmarks.defences.fine_pruning import FinePruning
from benchmarks.defences.ibau import IBau
from benchmarks.defences.mmbm import MmBm
from benchmarks.defences.neural_cleanse import NeuralCleanse
from benchmarks.defences.protocol import Defence, Mitigated
from benchmarks.defences.without import Without
from benchmarks.published import Published

DEFENCES: dict[str, Callable[[], Defence]] = {
    "without": Without,
    "NC": NeuralCleanse,
    "NAD": AttentionDistillation,
    "FP": FinePruning,
    "I-BAU": IBau,
    "MM-BM": MmBm,
    "MMAC": Mmac,
    "MMDF": Mmdf,
    "MMAC paper": partial(Mmac, preset="paper"),
    "MMDF paper": partial(Mmdf, preset="paper"),
    "MMAC reference": partial(Mmac, preset="reference"),
    "MMDF reference": partial(Mmdf, preset="reference"),
}
ON_REQUEST = frozenset(name for name in DEFENCES if name.endswith((" paper", " reference")))
"""Calibrations that take half an hour on two cores, and therefore only run if named."""

PUBLISHED: dict[str, Published] = {
    "NC": neural_cleanse.PUBLISHED,
    "NAD": attention_distillation.PUBLISHED,
    "FP": fine_pruning.PUBLISHED,
    "I-BAU": ibau.PUBLISHED,
    "MM-BM": mmbm.PUBLISHED,
}
"""Figures that the papers of the defences report, by the same name."""

__all__ = [
    "DEFENCES",
    "ON_REQUEST",
    "PUBLISHED",
    "AttentionDistillation",
    "Defence",
    "FinePruning",
    "IBau",
    "Mitigated",
    "MmBm",
    "Mmac",
    "Mmdf",
    "NeuralCleanse",
    "Without",
]
