"""What was calibrated, on what and by what, as rows of a table."""

import numpy as np

from mmguard.bundle.manifest import Manifest
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.report.evidence import Evidence
from mmguard.report.text import count
from mmguard.text.format import some

Rows = tuple[tuple[str, str], ...]

NAMED = 12
"""Class names that the page lists."""

TIGHT = "MMAC by tight bounds: the logits of clean inputs stay, and bounds fall to what these inputs need"
OBJECTIVES = {
    "mmac": "MMAC: the logits of clean inputs stay, the largest margins shrink",
    "mmom": "MMOM: the labels of clean inputs are kept, the largest margins shrink; a corrected model",
    "mmbm": "MM-BM: the logits of clean inputs stay, the bounds themselves shrink",
}

STATISTICS = {
    "margin_gap": "how far the margin of the original's decision falls",
    "residual_margin_gap": "how much further it falls than that of clean inputs of the same decision and margin",
    "residual_norm": "how far the logits move, beyond what is expected of a clean input's",
    "centred_residual_norm": "how far the logits less their mean move, beyond what is expected of a clean input's",
}


def facts(manifest: Manifest, evidence: Evidence) -> Rows:
    """Label and value of each row."""
    figures, settings = manifest.calibration, manifest.settings
    objective = str(settings.get("objective", "mmac"))
    ended = "then the objective had settled" if figures.converged else "the limit that was set"
    return (
        ("Model", manifest.name),
        *((f"SHA-256 of {name}", sha256) for name, sha256 in evidence.model_sha256.items()),
        ("Input", _input(manifest.input)),
        ("Output", manifest.output.describe()),
        ("Classes", _classes(manifest.classes)),
        ("Clean set D", f"{count(figures.n, 'input')}, {_labels(manifest)}"),
        ("Preset", manifest.preset),
        ("Objective", TIGHT if settings.get("penalty") == "height" else OBJECTIVES.get(objective, objective)),
        ("Rounds", f"{figures.rounds}, {ended}"),
        *(() if figures.original_margins else (("Audit", "left out (--no-audit)"),)),
        ("Seed", str(manifest.seed)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    )


def _labels(manifest: Manifest) -> str:
    if not manifest.calibration.labelled:
        return "unlabelled"
    if manifest.settings.get("objective") == "mmom":
        return "labelled; the bounds were learned from the labels"
    return "labelled; the labels were used for the accuracies only"


def _input(spec: InputSpec) -> str:
    shape = _by(tuple("any" if size is None else str(size) for size in spec.shape[1:]))
    low, high = (f"{end:.4g}".replace("-", "−") for end in (np.min(spec.low), np.max(spec.high)))
    text = f"{spec.name}: {spec.dtype} {shape}, from {low} to {high}"
    if spec.preprocessing is None:
        return f"{text}; given as arrays"
    read = spec.preprocessing
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (read.mean, read.std))
    order = read.mode if read.mode == "L" else read.channel_order
    return f"{text}; from {order} images{_geometry(read)}, scale {read.scale:.4g}, mean {mean}, std {std}"


def _geometry(read: Preprocessing) -> str:
    text = ""
    if read.size is not None:
        text += f", resized to {_by(read.size)} ({read.interpolation})"
    if read.shortest_edge is not None:
        text += f", resized to a shorter edge of {read.shortest_edge} ({read.interpolation})"
    return text if read.crop is None else f"{text}, cropped to {_by(read.crop)}"


def _by(lengths: tuple[object, ...]) -> str:
    return " × ".join(map(str, lengths))


def _classes(classes: tuple[str, ...]) -> str:
    return f"{len(classes)}: {some(classes, NAMED)}"
