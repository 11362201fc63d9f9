"""From a model file and a clean set to a guard bundle: learn, export, verify, write.

This, `mmguard.subject` and `mmguard.fitness` alone join the rooms. They import the offline ones inside their functions:
a serving container has neither torch nor onnx, and must be able to import this.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmguard import bundle
from mmguard.advice import warn_of_blindness, warn_of_lost_accuracy
from mmguard.errors import OptionError
from mmguard.extras import require_calibrate
from mmguard.manifest import NAME_PATTERN, CalibrationFigures, Manifest, NullSpec
from mmguard.modules import Clean, as_files, check_paths
from mmguard.null import fit_null
from mmguard.phases import schedule_of, searched_margins
from mmguard.progress import AT_THE_START, FORWARD, OnProgress, Schedule
from mmguard.provenance import provenance, versions
from mmguard.subject import Subject, prepare
from mmguard.types import Calibration, ClipSite, FloatArray, IntArray, Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from mmguard.calibrate import Checkpoint, Null, Objective, OnRound, Settings
    from mmguard.calibrate.state import State

logger = logging.getLogger(__name__)

PROBES = 4


def calibrate_model(
    model: "str | Path | nn.Module",
    clean: Clean,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    preset: str = "default",
    objective: "Objective" = "mmac",
    theta: float | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    margin_weight: float | None = None,
    null: "Null | None" = None,
    logits: str | None = None,
    sites: str = "all",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    device: str = "cpu",
    skip_bad: bool = False,
    resume: bool = False,
    audit: bool = True,
    on_round: "OnRound | None" = None,
    on_progress: OnProgress = lambda _: None,
) -> Path:
    """Calibrate a guard for an ONNX classifier and write its bundle.

    The last finished round is kept in a checkpoint beside the bundle to be, and an interruption leaves it there. To go
    on from it gives the same bytes as a calibration that was never interrupted, on one machine.

    Args:
        model: ONNX file of a classifier of one input, or a PyTorch module, which is exported first.
        clean: the clean set D: a folder per class, a flat folder, an `.npz` with `x` and perhaps `y`, an `.npy` or a
            `.csv`; or in memory `x` (N, ...), `(x, y)`, or a loader of batches of either.
        out: folder to write; None is `<model's stem>.mmguard` in the current folder. An older bundle is replaced.
        name: the bundle's name in metrics and URLs; None is the model's stem.
        preset: settings to start from: `default`, `paper` or `reference`.
        objective: what the bounds minimise: `mmac` keeps the logits and gives a guard; `mmom` learns from labels, for a
            model that is overfitted without a backdoor, and gives a corrected model without a test; `mmbm` is `mmac`
            with the norm of the bounds in place of the margins.
        theta, rounds, budget, margin_weight, null: override the preset's. The budget is the mean squared change of the
            logits on D that clipping may cost, as a share of their variance, which only `default` has; the margin
            weight is λ at the start; the null is `gaussian`, `empirical` for p-values that are ranks among the clean
            inputs, and need 1 / theta of them, `bounded` for a Gaussian whose p-values are never below those of ranks,
            which fall slowly above the highest clean score, or `auto`: `bounded` with fewer than 2 / theta inputs, else
            `gaussian`, or `empirical` where that does not hold.
        logits: ONNX name of the logits (N, K), or of the one number before a sigmoid; None finds them.
        sites: activations that are clipped: `all`; `last`, those of the last stage; or shell-style patterns on names
            of values or operators, separated by commas. `inspect_model` lists them.
        classes: class names in the order of the outputs.
        preprocessing: how image files become inputs, and with it the input box. None scales pixels to [0, 1], and
            takes the box of arrays from their own range.
        seed: seeds all randomness.
        device: torch device of the calibration, `cpu` or `cuda`.
        skip_bad: leave out files that cannot be decoded, and rows of arrays that are not finite.
        resume: go on from the checkpoint of an earlier call with the same arguments; without one, start anew. Else
            an existing checkpoint is overwritten.
        audit: whether the largest margins of both networks are searched, which the audit judges. That takes longer the
            more classes there are; without it the bundle says nothing of whether the model is backdoored.
        on_round: called after every round with its figures.
        on_progress: called whenever some work has been done, with the phase and the estimated time of all that is left.

    Returns:
        The folder of the bundle.

    Raises:
        ModelError: the model cannot be guarded.
        InputError: the clean set cannot be used, or the preprocessing does not fit the model.
        OptionError: an unknown preset, objective or device, rounds, theta, λ or seed out of range, or a pattern that
            fits no clip site.
        ProviderError: device is `cuda` and PyTorch has no GPU.
        BundleError: the destination cannot be written.
        CheckpointError: the checkpoint to go on from is damaged, or of another calibration.
        MissingExtraError: mmguard was installed without the extra `calibrate`.
    """
    require_calibrate()
    check_paths(model, clean)
    from mmguard.calibrate import Checkpoint, cross_fit, parts_of

    started, clock = datetime.now(UTC), time.perf_counter()
    stem = Path(model).stem if isinstance(model, (str, Path)) else type(model).__name__
    out, name = Path(out or f"{stem}.mmguard"), _bundle_name(name or stem)
    bundle.check_destination(out)
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
            with bundle.staged(out) as folder:
                manifest = Manifest(
                    name=name,
                    versions=versions(),
                    seed=seed,
                    preset=preset,
                    settings=settings.as_json(),
                    input=subject.input,
                    output=subject.classifier.output,
                    classes=subject.classes,
                    plans=_export(folder, subject, learned, seed, schedule),
                    sites=tuple(
                        ClipSite(a.value, a.operator, a.axis, learned.bounds[a.value].size) for a in subject.activations
                    ),
                    null=fitted,
                    calibration=figures,
                    files={},
                )
                _write_report(folder, manifest, subject, learned, clean_scores, device)
                schedule.add(FORWARD * len(subject.x))
                bundle.write(folder, manifest, provenance(started, time.perf_counter() - clock, device))
        checkpoint.remove()
    return out


def default_out(model: Path) -> Path:
    """Where the bundle of a model is written unless the user says otherwise."""
    return Path(f"{model.stem}.mmguard")


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of a bundle to be is kept."""
    out = out.resolve()
    return out.parent / f".{out.name}.checkpoint"


def _kept_state(checkpoint: "Checkpoint", resume: bool) -> "State | None":
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
    objective: "Objective",
    theta: float | None,
    rounds: int | None,
    budget: float | None,
    margin_weight: float | None,
    null: "Null | None",
) -> "Settings":
    from mmguard.calibrate import find_preset

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


def _bundle_name(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if not NAME_PATTERN.fullmatch(name):
        raise OptionError(f"{name!r} cannot be a bundle's name; give one with --name, starting with a letter or digit")
    return name


def _looser(settings: "Settings") -> str:
    """The option that loosens bounds, in words."""
    if settings.change is None:
        return f"lower --margin-weight than {settings.margin_weight:g}"
    return f"lower --budget than {settings.change:g}"


def _export(folder: Path, subject: Subject, learned: Calibration, seed: int, schedule: Schedule) -> dict[str, str]:
    """Write both networks, their plans, the bounds and the probes; every form is checked on D before it is kept."""
    from mmguard.exporter import (
        FORMS,
        copy_original,
        run,
        tolerance,
        verify_export,
        verify_tail,
        write_clipped,
        write_plans,
    )

    classifier, spec, x = subject.classifier, subject.input, subject.x
    copy_original(classifier, folder)
    write_clipped(classifier, learned.bounds, folder / "clipped.onnx")
    plans, name = write_plans(folder, classifier), classifier.output.logits
    allowed = tolerance(classifier.model)
    checked = classifier.complaint is None
    for form, logits in (("original", learned.original_logits), ("clipped", learned.clipped_logits)):
        verify_export(folder / plans[form], x, logits, name, allowed, checked)
        schedule.add(FORWARD * len(x))
    if "tail" in plans:
        verify_tail(folder / plans["tail"], folder / plans["original"], x, classifier.output, allowed)
    bundle.write_tensors(folder / bundle.BOUNDS, learned.bounds)
    shape = (PROBES, *x.shape[1:])
    probes = np.random.default_rng(seed).uniform(spec.low, spec.high, shape).astype(np.float32)
    probed = {form: run(folder / plans[form], probes, name) for form in FORMS}
    bundle.write_tensors(folder / bundle.PROBES, {"x": probes, **probed})
    return plans


def _write_report(
    folder: Path,
    manifest: Manifest,
    subject: Subject,
    learned: Calibration,
    clean_scores: FloatArray | None,
    device: str,
) -> None:
    """Write the page for reviewers, before files are hashed."""
    from mmguard.calibrate import measure_clipping
    from mmguard.report import Evidence, render, scores

    axes = {site.value: site.axis for site in manifest.sites}
    clipping = measure_clipping(subject.graph, axes, learned.bounds, subject.x, device)
    statistic = None
    if manifest.null is not None and clean_scores is not None:
        statistic = scores(manifest.null.fitted().p_values(clean_scores))
    names = ["original.onnx", *(file.as_posix() for file in subject.classifier.external_files())]
    page = render(manifest, Evidence({name: bundle.sha256(folder / name) for name in names}, clipping, statistic))
    (folder / bundle.REPORT).write_text(page, encoding="utf-8", newline="\n")


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
