"""Everything that a bundle will hold of a network, written once before anything is learned, and thrown away."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from mmguard.exporter.classifier import Classifier
from mmguard.exporter.equality import check_export, check_head, run
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.runtime_graphs import write_runtime_graphs
from mmguard.exporter.sites import Activation

WIDE = np.array(np.finfo(np.float32).max, np.float32)
"""A bound that clips nothing."""


def copy_original(classifier: Classifier, folder: Path) -> None:
    """Copy the user's file to `original.onnx`, and its external weights by their names."""
    shutil.copyfile(classifier.path, folder / "original.onnx")
    for location in classifier.external_files():
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(classifier.path.parent / location, folder / location)


def require_export(
    classifier: Classifier, sites: tuple[Activation, ...], x: npt.NDArray[np.float32], tolerance: float
) -> None:
    """Refuse a network whose clipped form, with bounds that clip nothing, is not the network itself.

    Args:
        sites: where bounds go. x: (N, ...) float32 inputs.
        tolerance: largest difference, relative to the largest logit.

    Raises:
        NotOnnxError: ONNX's checker refuses what is written, though it passed the user's file.
        GraphMismatchError: a form differs from the original, or outputs that are made of the logits do.
    """
    output, checked = classifier.output, classifier.complaint is None
    with TemporaryDirectory(prefix="mmguard-") as name:
        folder = Path(name)
        copy_original(classifier, folder)
        write_clipped(classifier, {site.value: WIDE for site in sites}, folder / "clipped.onnx")
        runtime_graphs = write_runtime_graphs(folder, classifier)
        logits = run(folder / runtime_graphs["original"], x, output.logits)
        check_export(folder / runtime_graphs["clipped"], x, logits, output.logits, tolerance, checked)
        if "head" in runtime_graphs:
            check_head(folder / runtime_graphs["head"], folder / runtime_graphs["original"], x, output, tolerance)
