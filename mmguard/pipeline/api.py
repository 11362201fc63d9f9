"""The offline part of the Python API.

It needs no PyTorch to be imported, and refuses what it can before PyTorch, which takes seconds, is imported.
"""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from mmguard.calibrate.progress import OnProgress
from mmguard.errors import CleanSetError, MissingExtraError, NotOnnxError
from mmguard.inputs.spec import Preprocessing
from mmguard.settings.settings import Null, Objective

if TYPE_CHECKING:
    from torch import nn

    from mmguard.calibrate.learning.calibrator import OnRound
    from mmguard.pipeline.inspect import Inspection

Array = npt.NDArray[Any]
Clean = str | Path | Array | tuple[Any, Any] | Iterable[Any]
"""D: a path, or in memory x (N, ...), an array or a tensor; (x, y); or a loader of batches of either."""


def calibrate_model(
    model: "str | Path | nn.Module",
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
    from mmguard.pipeline.calibration import calibrate

    return calibrate(
        model,
        clean,
        out=out,
        name=name,
        preset=preset,
        objective=objective,
        theta=theta,
        rounds=rounds,
        budget=budget,
        margin_weight=margin_weight,
        null=null,
        logits=logits,
        sites=sites,
        classes=classes,
        preprocessing=preprocessing,
        seed=seed,
        device=device,
        skip_bad=skip_bad,
        resume=resume,
        audit=audit,
        on_round=on_round,
        on_progress=on_progress,
    )


def inspect_model(model: str | Path, logits: str | None = None) -> "Inspection":
    """Look at an ONNX file as calibration would, and run it on random inputs where its input's shape is static.

    Args:
        model: the file. logits: ONNX name of the logits; None finds them.

    Raises:
        ModelError: it cannot be read as a classifier.
        MissingExtraError: mmguard was installed without the extra `calibrate`.
    """
    require_calibrate()
    from mmguard.pipeline.inspect import inspect

    return inspect(model, logits)


def clipped_module(bundle: str | Path) -> "nn.Module":
    """The clipped network of a bundle as a PyTorch module.

    Args:
        bundle: folder of a guard bundle.

    Returns:
        A module that takes (N, ...) float32, the model's own input, and returns the model's first output. It is
        differentiable with respect to its input, moves between devices, and has no parameters to train.

    Raises:
        BundleError: no bundle there, or a file that was changed.
        MissingExtraError: mmguard was installed without the extra `calibrate`.
    """
    require_calibrate()
    from mmguard.pipeline.pytorch import module_of

    return module_of(bundle)


def check_paths(model: object, clean: object) -> None:
    """Refuse paths of a model or of D where nothing is, before anything slow is imported.

    Raises:
        NotOnnxError: no file of the model. CleanSetError: no file or folder of D.
    """
    if isinstance(model, (str, Path)) and not Path(model).is_file():
        what = "is a folder" if Path(model).is_dir() else "no such file"
        raise NotOnnxError(f"{model}: {what}; an ONNX file is needed")
    if isinstance(clean, (str, Path)) and not Path(clean).exists():
        raise CleanSetError(f"{clean}: no such folder or file of clean inputs")


def require_calibrate() -> None:
    """Refuse to go on where a package of the extra `calibrate` is missing.

    Raises:
        MissingExtraError: names the package and the command that installs it.
    """
    for package in ("jinja2", "onnx_ir", "torch"):
        try:
            found = find_spec(package)  # without the seconds that an import takes
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtraError.of("calibration", package, "calibrate")
