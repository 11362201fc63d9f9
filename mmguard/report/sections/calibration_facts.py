"""The section "What was calibrated": the model, the calibration set and the method, as rows of a table."""

import numpy as np

from mmguard.bundle.manifest import Manifest
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.report.evidence import Evidence
from mmguard.report.formatting import count
from mmguard.settings import Settings
from mmguard.text.format import first_few

Rows = tuple[tuple[str, str], ...]
"""Label and value of each row of the table."""

MOST_CLASSES = 12
"""Maximum number of class names that are listed."""

TIGHT_BOUNDS = (
    "MMAC with tight bounds: keeps the logits of clean inputs, and lowers each bound as far as these logits allow"
)
OBJECTIVES = {
    "mmac": "MMAC: keeps the logits of clean inputs and shrinks the largest margins",
    "mmom": "MMOM: keeps the labels of clean inputs, shrinks the largest margins, and produces a corrected model",
    "mmbm": "MM-BM: keeps the logits of clean inputs and shrinks the bounds themselves",
}

STATISTICS = {
    "margin_gap": "by how much clipping lowers the margin of the original network's decision",
    "residual_margin_gap": (
        "by how much more clipping lowers the margin of the original network's decision than is expected for clean "
        "inputs with the same decision and margin"
    ),
    "residual_norm": (
        "distance between the clipped network's logits and those expected for a clean input with the same original "
        "logits"
    ),
    "centred_residual_norm": (
        "distance between the clipped network's logits and those expected for a clean input with the same original "
        "logits, after the mean is subtracted from each network's logits"
    ),
    "activation_distance": (
        "distance of the original network's activations from those of clean inputs with the same decision, over all "
        "sites; without a unit"
    ),
    "activation_excess": (
        "by how much the original network's activations are outside of the ranges of clean inputs with the same "
        "decision, over all channels; logarithm of a sum of ratios"
    ),
    "supported_margin_gap": (
        "the residual margin gap, plus the activations' distance at the last site where that is larger than usual; in "
        "standard deviations"
    ),
    "original_margin": "margin of the original network's decision",
}
"""What each statistic measures."""


def calibration_facts(manifest: Manifest, evidence: Evidence) -> Rows:
    """List what was calibrated and how.

    Args:
        manifest: the bundle's manifest.
        evidence: evidence for the page; only the SHA-256 values of the model's files are used.

    Returns:
        The label and value of each row.
    """
    figures, settings = manifest.calibration, manifest.settings
    ended = "after which the objective had converged" if figures.converged else "the configured maximum"
    return (
        ("Model", manifest.name),
        *((f"SHA-256 of {name}", sha256) for name, sha256 in evidence.model_sha256.items()),
        ("Input", _input(manifest.input)),
        ("Output", manifest.output.describe()),
        ("Classes", f"{len(manifest.classes)}: {first_few(manifest.classes, MOST_CLASSES)}"),
        ("Calibration set", f"{count(figures.n, 'input')}, {_labels(figures.labelled, settings)}"),
        ("Preset", manifest.preset),
        ("Objective", _objective(settings)),
        ("Rounds", f"{figures.rounds}, {ended}"),
        *(() if figures.original_margins or figures.audit_cut else (("Audit", "skipped (--no-audit)"),)),
        ("Seed", str(manifest.seed)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    )


def _objective(settings: Settings) -> str:
    return TIGHT_BOUNDS if settings.penalty == "height" else OBJECTIVES.get(settings.objective, settings.objective)


def _labels(labelled: bool, settings: Settings) -> str:
    if not labelled:
        return "unlabelled"
    if settings.objective == "mmom":
        return "labelled; the bounds were learned from the labels"
    if settings.only_correct:
        return "labelled; inputs that the model misclassifies were left out, and the labels measured accuracy"
    return "labelled; the labels were used only to measure accuracy"


def _input(spec: InputSpec) -> str:
    shape = _by(tuple("any" if size is None else str(size) for size in spec.shape[1:]))
    low, high = (f"{end:.4g}".replace("-", "−") for end in (np.min(spec.low), np.max(spec.high)))
    text = f"{spec.name}: {spec.dtype} {shape}, from {low} to {high}"
    if spec.preprocessing is None:
        return f"{text}; provided as arrays"
    read = spec.preprocessing
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (read.mean, read.std))
    order = "grey-scale" if read.mode == "L" else read.channel_order
    return f"{text}; read from {order} images{_geometry(read)}, scale {read.scale:.4g}, mean {mean}, std {std}"


def _geometry(read: Preprocessing) -> str:
    text = ""
    if read.size is not None:
        text += f", resized to {_by(read.size)} ({read.interpolation})"
    if read.shortest_edge is not None:
        text += f", resized to a shorter edge of {read.shortest_edge} ({read.interpolation})"
    return text if read.crop is None else f"{text}, cropped to {_by(read.crop)}"


def _by(lengths: tuple[object, ...]) -> str:
    return " × ".join(map(str, lengths))
