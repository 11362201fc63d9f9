"""Runs a calibration: prepares the model and the data, learns the bounds, fits the null and writes the bundle."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mmguard.bundle.diagnostics import JUDGED, warn_of_blindness, warn_of_lost_accuracy
from mmguard.bundle.provenance import provenance
from mmguard.bundle.write import staged, write
from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.calibrate.checkpoint.state import State
from mmguard.calibrate.learning.calibrator import OnRound
from mmguard.calibrate.learning.cross_fit import Listener, cross_fit, split_folds
from mmguard.calibrate.progress import AT_THE_START, FORWARD, OnProgress
from mmguard.pipeline.activations import observe_activations
from mmguard.pipeline.clean_source import CleanSource
from mmguard.pipeline.null_fit import fit_null
from mmguard.pipeline.paths import checkpoint_path
from mmguard.pipeline.prepare import PreparedCalibration, prepare
from mmguard.pipeline.pytorch import model_file
from mmguard.pipeline.request import Request
from mmguard.pipeline.schedule import Margins, schedule_of, searched_margins
from mmguard.pipeline.write_bundle import Outcome, figures_of, write_contents, write_report
from mmguard.settings import Settings
from mmguard.types import Calibration, IntArray

logger = logging.getLogger(__name__)


def calibrate(request: Request, on_round: OnRound, on_progress: OnProgress) -> Path:
    """Calibrate a guard and write its bundle, as documented in `mmguard.calibrate_model`.

    Args:
        request: the model, the calibration set and the options.
        on_round: called after every round.
        on_progress: called whenever a part of the work is done.

    Returns:
        The folder of the bundle.

    Raises:
        MmguardError: as documented in `calibrate_model`.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    on_progress(AT_THE_START)
    source = CleanSource(request.clean)
    with model_file(request.model, source) as model:
        prepared = prepare(request, model, source)
        checkpoint = Checkpoint(checkpoint_path(request.out), prepared.fingerprint())
        state = _resumed_state(checkpoint, request.resume)
        if request.out.exists():
            logger.info("the bundle at %s will be replaced", request.out)
        with checkpoint:
            schedule = schedule_of(prepared, state, on_progress)
            folds = split_folds(len(prepared.x), request.settings.folds, request.seed)
            listener = Listener(on_round, checkpoint.keep, schedule)
            learned = cross_fit(
                *(prepared.calibrator, prepared.x, prepared.labels, folds, listener, state, prepared.original_logits)
            )
            margins = searched_margins(prepared, learned, checkpoint, schedule)
            schedule.begin()
            outcome = _tested(prepared, learned, folds, margins)
            with staged(request.out) as folder:
                manifest = write_contents(folder, prepared, outcome, schedule)
                write_report(folder, manifest, prepared, outcome)
                schedule.add(FORWARD * len(prepared.x))
                write(folder, manifest, provenance(started, time.perf_counter() - clock, request.device))
        checkpoint.remove()
    return request.out


def _resumed_state(checkpoint: Checkpoint, resume: bool) -> State | None:
    """Return the state to continue from, or None to start from the beginning, and log which of the two applies."""
    if not resume:
        if checkpoint.path.exists():
            logger.info(
                "overwriting the checkpoint %s; pass --resume to continue from a checkpoint instead", checkpoint.path
            )
        return None
    state = checkpoint.load()
    if state is None:
        logger.info("there is no checkpoint at %s; starting from the beginning", checkpoint.path)
    else:
        logger.info("resuming from the checkpoint %s", checkpoint.path)
    return state


def _tested(
    prepared: PreparedCalibration,
    learned: Calibration,
    folds: Sequence[IntArray],
    margins: Margins,
) -> Outcome:
    """Fit the null, compute the figures of the calibration, and warn of problems that these figures reveal."""
    settings = prepared.request.settings
    null, clean_scores, seen = None, None, None
    if settings.objective != "mmom":
        if JUDGED in margins.original:
            warn_of_blindness(margins.original, margins.clipped)
        output = prepared.classifier.output
        seen = observe_activations(prepared, folds)
        held_out = None if seen is None else seen.held_out
        null, clean_scores = fit_null(learned, settings, folds, held_out, centred=output.logits not in output.names)
    activations = None if seen is None else seen.read
    figures = figures_of(learned, activations, prepared.labels, null, margins)
    warn_of_lost_accuracy(figures, _looser(settings))
    return Outcome(learned, seen, null, clean_scores, figures)


def _looser(settings: Settings) -> str:
    """Return advice on how to loosen the bounds."""
    if settings.budget is None:
        return f"lower --margin-weight (now {settings.margin_weight:g})"
    return f"lower --budget (now {settings.budget:g})"
