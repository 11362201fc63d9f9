"""Write the contents of a bundle: the networks, bounds, probes, figures and the report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.bundle.file_names import BOUNDS, PROBES, REPORT
from mmguard.bundle.integrity import sha256
from mmguard.bundle.manifest import ACTIVATIONS, CalibrationFigures, Manifest, NullSpec
from mmguard.bundle.provenance import versions
from mmguard.bundle.tensors import write_tensors
from mmguard.calibrate.progress import FORWARD, Schedule
from mmguard.calibrate.site_clipping import measure_clipping
from mmguard.exporter.equality import check_activations, check_export, check_head, run
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.runtime_graphs import FORMS, write_runtime_graphs
from mmguard.exporter.tolerance import tolerance
from mmguard.exporter.trial_export import copy_original
from mmguard.pipeline.activations import SeenActivations
from mmguard.pipeline.mirror import mirror_axis
from mmguard.pipeline.prepare import PreparedCalibration
from mmguard.pipeline.schedule import Margins
from mmguard.report import Evidence, normal_scores, render
from mmguard.settings import base_preset
from mmguard.types import Calibration, ClipSite, FloatArray, IntArray

PROBE_INPUTS = 4
"""Number of random inputs that are stored in a bundle together with their logits."""


@dataclass(frozen=True)
class Outcome:
    """The results of a calibration.

    Attributes:
        learned: the bounds, and the logits of both networks on D.
        seen: the evidence of the original network's activations; None if the test reads none.
        null: the null and the levels of the test; None for an objective without a test.
        clean_scores: scores (n,) float64 of the inputs in D; the null was fitted to these scores. None for an objective
            without a test.
        figures: accuracies, share of flagged inputs, margins and other figures of the calibration.
    """

    learned: Calibration
    seen: SeenActivations | None
    null: NullSpec | None
    clean_scores: FloatArray | None
    figures: CalibrationFigures


def write_contents(folder: Path, prepared: PreparedCalibration, outcome: Outcome, schedule: Schedule) -> Manifest:
    """Write the networks, runtime graphs, bounds and probes of a bundle, and check every network on D.

    Args:
        folder: empty folder of the bundle.
        prepared: the model and the calibration set.
        outcome: the results of the calibration.
        schedule: schedule that is updated after each pass over D.

    Returns:
        The manifest, without its list of files.

    Raises:
        NotOnnxError: ONNX's checker rejects a network.
        GraphMismatchError: a network's logits differ from the logits that were computed during calibration.
    """
    request, learned = prepared.request, outcome.learned
    return Manifest(
        name=request.name,
        versions=versions(),
        seed=request.seed,
        preset=base_preset(request.settings),
        settings=request.settings,
        input=prepared.input,
        output=prepared.classifier.output,
        classes=prepared.classes,
        runtime_graphs=_write_networks(folder, prepared, outcome, schedule),
        sites=tuple(
            ClipSite(site.value, site.operator, site.axis, learned.bounds[site.value].size)
            for site in prepared.activations
        ),
        evidence=() if outcome.seen is None else outcome.seen.evidence.sites,
        mirror_axis=None if outcome.null is None else mirror_axis(prepared),
        null=outcome.null,
        calibration=outcome.figures,
        files={},
    )


def write_report(folder: Path, manifest: Manifest, prepared: PreparedCalibration, outcome: Outcome) -> None:
    """Write the report for reviewers.

    Args:
        folder: folder of the bundle, which already contains the user's model.
        manifest: the manifest, without its list of files.
        prepared: the model and the calibration set.
        outcome: the results of the calibration.
    """
    device = prepared.request.device
    clipping = measure_clipping(prepared.graph, prepared.axes, outcome.learned.bounds, prepared.x, device)
    scores = None
    if outcome.null is not None and outcome.clean_scores is not None:
        scores = normal_scores(outcome.null.fitted().p_values(outcome.clean_scores))
    names = ["original.onnx", *(file.as_posix() for file in prepared.classifier.external_files)]
    page = render(manifest, Evidence({name: sha256(folder / name) for name in names}, clipping, scores))
    (folder / REPORT).write_text(page, encoding="utf-8", newline="\n")


def figures_of(
    learned: Calibration,
    activations: FloatArray | None,
    labels: IntArray | None,
    null: NullSpec | None,
    margins: Margins,
) -> CalibrationFigures:
    """Return the figures of a calibration, computed on D.

    Args:
        learned: the logits of both networks on D, and the number of rounds.
        activations: (n, S + 1) what the test reads of the activations of D; None if it reads none.
        labels: labels of D, (N,) int64; if None, accuracy is measured against the original network's decisions.
        null: the null and the levels of the test; None if there is no test.
        margins: maximum margins of both networks by scale; empty if the search was skipped.
    """
    original, clipped = learned.original_logits.argmax(axis=1), learned.clipped_logits.argmax(axis=1)
    truth = original if labels is None else labels
    flagged = np.zeros(len(truth), np.bool_)
    if null is not None:
        flagged = null.test()(learned.original_logits, learned.clipped_logits, activations).flagged
    return CalibrationFigures(
        n=len(truth),
        labelled=labels is not None,
        original_accuracy=float((original == truth).mean()),
        clipped_accuracy=float((clipped == truth).mean()),
        agreement=float((original == clipped).mean()),
        flagged_share=float(flagged.mean()),
        original_margins={scale: tuple(by_class.tolist()) for scale, by_class in margins.original.items()},
        clipped_margins={scale: tuple(by_class.tolist()) for scale, by_class in margins.clipped.items()},
        audit_cut=margins.cut,
        rounds=learned.rounds,
        converged=learned.converged,
    )


def _write_networks(
    folder: Path, prepared: PreparedCalibration, outcome: Outcome, schedule: Schedule
) -> dict[str, str]:
    """Write the networks, bounds and probes, and return the file name of each runtime graph by its form."""
    classifier, x, learned, seen = prepared.classifier, prepared.x, outcome.learned, outcome.seen
    copy_original(classifier, folder)
    write_clipped(classifier, learned.bounds, folder / "clipped.onnx")
    graphs, logits_name = (
        write_runtime_graphs(folder, classifier, seen.evidence if seen else None),
        classifier.output.logits,
    )
    allowed, checked = tolerance(classifier.model), classifier.complaint is None
    for form, logits in (("original", learned.original_logits), ("clipped", learned.clipped_logits)):
        check_export(folder / graphs[form], x, logits, logits_name, allowed, checked)
        schedule.add(FORWARD * len(x))
    if seen is not None:
        check_activations(folder / graphs["original"], x, seen.read, allowed)
    if "head" in graphs:
        check_head(folder / graphs["head"], folder / graphs["original"], x, classifier.output, allowed)
    write_tensors(folder / BOUNDS, learned.bounds)
    probes = _draw_probes(prepared)
    probed = {form: run(folder / graphs[form], probes, logits_name) for form in FORMS}
    if seen is not None:
        probed["activations"] = run(folder / graphs["original"], probes, ACTIVATIONS)
    write_tensors(folder / PROBES, {"x": probes, **probed})
    return graphs


def _draw_probes(prepared: PreparedCalibration) -> npt.NDArray[np.float32]:
    spec, shape = prepared.input, (PROBE_INPUTS, *prepared.x.shape[1:])
    return np.random.default_rng(prepared.request.seed).uniform(spec.low, spec.high, shape).astype(np.float32)
