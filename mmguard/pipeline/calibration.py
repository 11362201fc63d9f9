"""From a model and a clean set to a guard bundle: prepare, learn, fit the null, export, verify, write."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mmguard.bundle.contents import BOUNDS, PROBES, REPORT, sha256
from mmguard.bundle.diagnostics import warn_of_blindness, warn_of_lost_accuracy
from mmguard.bundle.manifest import CalibrationFigures, Manifest, NullSpec
from mmguard.bundle.provenance import provenance, versions
from mmguard.bundle.tensors import write_tensors
from mmguard.bundle.write import check_destination, staged, write
from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.calibrate.checkpoint.state import State
from mmguard.calibrate.clipping import measure_clipping
from mmguard.calibrate.learning.calibrator import OnRound
from mmguard.calibrate.learning.cross_fit import cross_fit, parts_of
from mmguard.calibrate.progress import AT_THE_START, FORWARD, OnProgress, Schedule
from mmguard.errors import OptionError
from mmguard.exporter.equality import check_export, check_head, run
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.runtime_graphs import FORMS, write_runtime_graphs
from mmguard.exporter.tolerance import tolerance
from mmguard.exporter.trial import copy_original
from mmguard.inputs.spec import Preprocessing
from mmguard.pipeline.api import Clean
from mmguard.pipeline.null_fit import fit_null
from mmguard.pipeline.paths import bundle_name, checkpoint_path
from mmguard.pipeline.prepare import Subject, prepare
from mmguard.pipeline.pytorch import as_files
from mmguard.pipeline.schedule import schedule_of, searched_margins
from mmguard.report import Evidence, render, scores
from mmguard.settings.presets import find_preset
from mmguard.settings.settings import Null, Objective, Settings
from mmguard.types import Calibration, ClipSite, FloatArray, IntArray

logger = logging.getLogger(__name__)

PROBE_INPUTS = 4


def calibrate(
    model: str | Path | nn.Module,
    clean: Clean,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    preset: str = "default",
    objective: Objective = "mmac",
    theta: float | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    margin_weight: float | None = None,
    null: Null | None = None,
    logits: str | None = None,
    sites: str = "all",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    device: str = "cpu",
    skip_bad: bool = False,
    resume: bool = False,
    audit: bool = True,
    on_round: OnRound | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Path:
    """Calibrate as `mmguard.calibrate_model` says; arguments, result and errors are its own."""
    started, clock = datetime.now(UTC), time.perf_counter()
    stem = Path(model).stem if isinstance(model, (str, Path)) else type(model).__name__
    out, name = Path(out or f"{stem}.mmguard"), bundle_name(name or stem)
    check_destination(out)
    settings = _settings(preset, objective, theta, rounds, budget, margin_weight, null)
    on_progress(AT_THE_START)
    with as_files(model, clean) as (path, inputs):
        subject = prepare(path, inputs, settings, logits, sites, classes, preprocessing, seed, device, skip_bad)
        checkpoint = Checkpoint(checkpoint_path(out), subject.fingerprint(settings, seed, device))
        state = _kept_state(checkpoint, resume)
        if out.exists():
            logger.info("will replace the bundle at %s", out)
        with checkpoint:
            schedule = schedule_of(subject, settings, seed, device, state, audit, on_progress)
            learned = cross_fit(
                *(subject.learner, subject.x, subject.labels, settings.folds, seed),
                *(on_round or (lambda _: None), checkpoint.keep, state, schedule),
            )
            margins = searched_margins(subject, learned, checkpoint, schedule) if audit else ({}, {})
            schedule.begin()
            fitted, clean_scores = None, None
            if settings.objective != "mmom":
                if audit:
                    warn_of_blindness(*margins)
                parts = parts_of(len(subject.x), settings.folds, seed)
                output = subject.classifier.output
                centred = output.logits not in output.names
                fitted, clean_scores = fit_null(learned, settings, parts, centred)
            figures = _figures(learned, subject.labels, fitted, *margins)
            warn_of_lost_accuracy(figures, _looser(settings))
            with staged(out) as folder:
                manifest = Manifest(
                    name=name,
                    versions=versions(),
                    seed=seed,
                    preset=preset,
                    settings=settings.as_json(),
                    input=subject.input,
                    output=subject.classifier.output,
                    classes=subject.classes,
                    runtime_graphs=_export(folder, subject, learned, seed, schedule),
                    sites=tuple(
                        ClipSite(a.value, a.operator, a.axis, learned.bounds[a.value].size) for a in subject.activations
                    ),
                    null=fitted,
                    calibration=figures,
                    files={},
                )
                _write_report(folder, manifest, subject, learned, clean_scores, device)
                schedule.add(FORWARD * len(subject.x))
                write(folder, manifest, provenance(started, time.perf_counter() - clock, device))
        checkpoint.remove()
    return out


def _kept_state(checkpoint: Checkpoint, resume: bool) -> State | None:
    """What to go on from, and a line that says so."""
    if not resume:
        if checkpoint.path.exists():
            logger.info("ignores the checkpoint %s, and overwrites it; --resume goes on from it", checkpoint.path)
        return None
    state = checkpoint.load()
    if state is None:
        logger.info("there is no checkpoint %s to go on from, so this starts from the beginning", checkpoint.path)
    else:
        logger.info("goes on from the checkpoint %s", checkpoint.path)
    return state


def _settings(
    preset: str,
    objective: Objective,
    theta: float | None,
    rounds: int | None,
    budget: float | None,
    margin_weight: float | None,
    null: Null | None,
) -> Settings:

    if objective == "mmom" and (theta is not None or null is not None):
        raise OptionError("MMOM makes a corrected model and no test, so that theta and null have no meaning")
    given = {"theta": theta, "rounds": rounds, "margin_weight": margin_weight, "null": null}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = find_preset(preset, objective)
    if budget is not None:
        if settings.change is None:
            raise OptionError(f"{preset} with {objective} steers to no budget; give --margin-weight instead")
        own["change"] = budget
    return replace(settings, **own)


def _looser(settings: Settings) -> str:
    """The option that loosens bounds, in words."""
    if settings.change is None:
        return f"lower --margin-weight than {settings.margin_weight:g}"
    return f"lower --budget than {settings.change:g}"


def _export(folder: Path, subject: Subject, learned: Calibration, seed: int, schedule: Schedule) -> dict[str, str]:
    """Write both networks, the runtime graphs, the bounds and the probes; check every form on D."""
    classifier, spec, x = subject.classifier, subject.input, subject.x
    copy_original(classifier, folder)
    write_clipped(classifier, learned.bounds, folder / "clipped.onnx")
    runtime_graphs, name = write_runtime_graphs(folder, classifier), classifier.output.logits
    allowed = tolerance(classifier.model)
    checked = classifier.complaint is None
    for form, logits in (("original", learned.original_logits), ("clipped", learned.clipped_logits)):
        check_export(folder / runtime_graphs[form], x, logits, name, allowed, checked)
        schedule.add(FORWARD * len(x))
    if "head" in runtime_graphs:
        check_head(folder / runtime_graphs["head"], folder / runtime_graphs["original"], x, classifier.output, allowed)
    write_tensors(folder / BOUNDS, learned.bounds)
    shape = (PROBE_INPUTS, *x.shape[1:])
    probes = np.random.default_rng(seed).uniform(spec.low, spec.high, shape).astype(np.float32)
    probed = {form: run(folder / runtime_graphs[form], probes, name) for form in FORMS}
    write_tensors(folder / PROBES, {"x": probes, **probed})
    return runtime_graphs


def _write_report(
    folder: Path,
    manifest: Manifest,
    subject: Subject,
    learned: Calibration,
    clean_scores: FloatArray | None,
    device: str,
) -> None:
    """Write the page for reviewers, before files are hashed."""
    axes = {site.value: site.axis for site in manifest.sites}
    clipping = measure_clipping(subject.graph, axes, learned.bounds, subject.x, device)
    statistic = None
    if manifest.null is not None and clean_scores is not None:
        statistic = scores(manifest.null.fitted().p_values(clean_scores))
    names = ["original.onnx", *(file.as_posix() for file in subject.classifier.external_files())]
    page = render(manifest, Evidence({name: sha256(folder / name) for name in names}, clipping, statistic))
    (folder / REPORT).write_text(page, encoding="utf-8", newline="\n")


def _figures(
    learned: Calibration,
    labels: IntArray | None,
    null: NullSpec | None,
    original_margins: Mapping[str, FloatArray],
    clipped_margins: Mapping[str, FloatArray],
) -> CalibrationFigures:
    original, clipped = learned.original_logits.argmax(axis=1), learned.clipped_logits.argmax(axis=1)
    truth = original if labels is None else labels
    flagged = np.zeros(len(truth), np.bool_)
    if null is not None:
        flagged = null.test()(learned.original_logits, learned.clipped_logits).flagged
    return CalibrationFigures(
        n=len(truth),
        labelled=labels is not None,
        original_accuracy=float((original == truth).mean()),
        clipped_accuracy=float((clipped == truth).mean()),
        agreement=float((original == clipped).mean()),
        flagged_share=float(flagged.mean()),
        original_margins={scale: tuple(margins.tolist()) for scale, margins in original_margins.items()},
        clipped_margins={scale: tuple(margins.tolist()) for scale, margins in clipped_margins.items()},
        rounds=learned.rounds,
        converged=learned.converged,
    )
