"""Write all network files of a bundle to a temporary folder and check them, before any bounds are learned."""

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

CLIPS_NOTHING = np.array(np.finfo(np.float32).max, np.float32)
"""A bound that is too high to clip anything."""


def copy_original(classifier: Classifier, folder: Path) -> None:
    """Copy the user's file to `original.onnx`, and copy the files of external weights under their own names.

    Args:
        classifier: the user's model.
        folder: destination folder.
    """
    shutil.copyfile(classifier.path, folder / "original.onnx")
    for location in classifier.external_files:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(classifier.path.parent / location, folder / location)


def try_export(
    classifier: Classifier, sites: tuple[Activation, ...], x: npt.NDArray[np.float32], tolerance: float
) -> None:
    """Check that a bundle can be written for a model, and that the bundle's networks return the model's results.

    The bounds are too high to clip anything, so the clipped network must return the same logits as the original
    network.

    Args:
        classifier: the user's model.
        sites: clip sites.
        x: (N, ...) float32 inputs.
        tolerance: largest difference allowed, relative to the largest logit.

    Raises:
        NotOnnxError: ONNX's checker rejects a written file, although it accepted the user's file.
        GraphMismatchError: the outputs of the clipped network or of the head differ from those of the original network.
    """
    output, checked = classifier.output, classifier.complaint is None
    with TemporaryDirectory(prefix="mmguard-") as name:
        folder = Path(name)
        copy_original(classifier, folder)
        write_clipped(classifier, {site.value: CLIPS_NOTHING for site in sites}, folder / "clipped.onnx")
        runtime_graphs = write_runtime_graphs(folder, classifier)
        logits = run(folder / runtime_graphs["original"], x, output.logits)
        check_export(folder / runtime_graphs["clipped"], x, logits, output.logits, tolerance, checked)
        if "head" in runtime_graphs:
            check_head(folder / runtime_graphs["head"], folder / runtime_graphs["original"], x, output, tolerance)
