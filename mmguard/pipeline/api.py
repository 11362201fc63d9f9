"""The offline Python API: `calibrate_model`, `inspect_model` and `clipped_module`.

Importing this module does not import PyTorch, which takes seconds to import and is not installed in serving containers.
Each function rejects as many invalid arguments as possible before it imports PyTorch.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.write import check_destination
from mmguard.calibrate.progress import OnProgress
from mmguard.errors import MissingExtraError
from mmguard.inputs.spec import Preprocessing
from mmguard.pipeline.paths import bundle_name
from mmguard.pipeline.request import AUDIT_MINUTES, Clean, Request
from mmguard.settings import Settings, preset

if TYPE_CHECKING:
    from torch import nn

    from mmguard.calibrate.learning.calibrator import OnRound
    from mmguard.pipeline.inspect import Inspection


def calibrate_model(
    model: "str | Path | nn.Module",
    clean: Clean,
    *,
    settings: str | Settings = "default",
    out: str | Path | None = None,
    name: str | None = None,
    logits: str | None = None,
    sites: str = "all",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    device: str = "cpu",
    skip_bad: bool = False,
    resume: bool = False,
    audit: bool = True,
    audit_minutes: float = AUDIT_MINUTES,
    on_round: "OnRound | None" = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Calibrate a guard for a classifier and write its bundle. This is the Python equivalent of `mmguard calibrate`.

    A checkpoint next to the bundle stores the results of the last finished round. Calling this function again with
    `resume=True` and otherwise the same arguments continues an interrupted calibration, and writes the same bytes as an
    uninterrupted calibration on the same machine.

    Args:
        model: path of an ONNX file with one input, or a PyTorch module, which is exported first.
        clean: the calibration set. As a path: a folder of images, with or without a subfolder for each class; an `.npz`
            file with an array `x` and optionally `y`; an `.npy` file; or a `.csv` file. In memory: inputs (N, ...); a
            pair (inputs, labels); or a loader whose batches are inputs or such pairs.
        settings: name of a preset (`default`, `paper` or `reference`), or a `Settings` object with every
            constant of the calibration. The function `preset` returns such an object.
        out: folder to write the bundle to. If the folder already contains a bundle, the bundle is replaced. None writes
            to the folder `<model>.mmguard` in the current folder, where `<model>` is the stem of the ONNX file's name
            or the name of the module's class.
        name: the bundle's name in metrics and URLs; None uses the stem of the ONNX file's name or
            the name of the module's class.
        logits: ONNX name of the logits (N, K), or of the single score before a sigmoid. If None, mmguard searches the
            model for the logits.
        sites: activations to clip: `all`; `last` (the activations of the last stage); or comma-separated shell-style
            patterns that match the names of values or operators listed by `inspect_model`.
        classes: class names in the order of the model's outputs. None uses the class names of the calibration set.
        preprocessing: how image files are converted to inputs. The input box follows from this conversion. If None,
            pixels are scaled to [0, 1], and the input box of array data is the range of the values in the arrays.
        seed: random seed.
        device: device that PyTorch runs on, `cpu` or `cuda`.
        skip_bad: whether to skip images that cannot be decoded and rows that contain NaN or infinite values.
        resume: whether to continue from the checkpoint of an interrupted call. If there is no checkpoint, calibration
            starts from the beginning. If False, an existing checkpoint is overwritten.
        audit: whether to search for the maximum margins of both networks, from which `Bundle.audit` judges whether the
            model is backdoored. The more classes there are, the longer the search takes. Without the search,
            `Bundle.audit` cannot reach a verdict.
        audit_minutes: maximum duration of this search, in minutes. If its estimated time is longer, the search takes
            fewer steps and leaves out scales, and the bundle says so. Then two calibrations may differ, because the
            number of steps depends on the speed of the machine.
        on_round: called after every round with the round's figures.
        on_progress: called whenever a part of the work is done, with the phase and the estimated remaining time.

    Returns:
        The folder of the bundle.

    Raises:
        ModelError: mmguard cannot guard the model.
        InputError: the calibration set cannot be used, or the preprocessing does not fit the model.
        OptionError: an option is out of range, or a pattern in `sites` matches nothing.
        ProviderError: `device` is `cuda` and PyTorch finds no GPU.
        BundleError: the bundle cannot be written to `out`.
        CheckpointError: the checkpoint is damaged or belongs to a different calibration.
        MissingExtraError: the extra `calibrate` is not installed.
    """
    require_calibrate()
    stem = Path(model).stem if isinstance(model, (str, Path)) else type(model).__name__
    request = Request(
        model=Path(model) if isinstance(model, (str, Path)) else model,
        clean=Path(clean) if isinstance(clean, (str, Path)) else clean,
        settings=preset(settings) if isinstance(settings, str) else settings,
        out=Path(out or f"{stem}.mmguard"),
        name=bundle_name(name or stem),
        logits=logits,
        sites=sites,
        classes=None if classes is None else tuple(classes),
        preprocessing=preprocessing,
        seed=seed,
        device=device,
        skip_bad=skip_bad,
        resume=resume,
        audit=audit,
        audit_minutes=audit_minutes,
    )
    check_destination(request.out)
    from mmguard.pipeline.calibration import calibrate

    return calibrate(request, on_round or (lambda _: None), on_progress or (lambda _: None))


def inspect_model(model: str | Path, logits: str | None = None) -> "Inspection":
    """Report what mmguard finds in an ONNX file. This is the Python equivalent of `mmguard inspect MODEL`.

    If the shape of the model's input is static, the model is also run on random inputs.

    Args:
        model: path of the ONNX file.
        logits: ONNX name of the logits (N, K). If None, mmguard searches the model for them.

    Returns:
        The model's input, outputs and clip sites, and every obstacle to calibration that was found.

    Raises:
        ModelError: the file is not a classifier that mmguard can read.
        OptionError: `logits` is not the name of a value that could be the logits.
        MissingExtraError: the extra `calibrate` is not installed.
    """
    require_calibrate()
    from mmguard.pipeline.inspect import inspect

    return inspect(Path(model), logits)


def clipped_module(bundle: str | Path | Bundle) -> "nn.Module":
    """Return the clipped network of a bundle as a PyTorch module.

    The module takes the model's input, as (N, ...) float32, and returns the model's first output. The module is
    differentiable with respect to its input, can be moved between devices, and has no trainable parameters.

    Args:
        bundle: an open bundle or its folder.

    Returns:
        The module.

    Raises:
        BundleError: there is no bundle in the folder, or a file of the bundle has changed since the bundle was written.
        MissingExtraError: the extra `calibrate` is not installed.
    """
    require_calibrate()
    from mmguard.pipeline.pytorch import clipped_graph

    return clipped_graph(bundle if isinstance(bundle, Bundle) else Bundle.open(bundle))


def require_calibrate() -> None:
    """Check that the packages of the extra `calibrate` are installed.

    Raises:
        MissingExtraError: a package is missing; the message contains the name of the package and the command that
            installs it.
    """  # noqa: DOC501
    for package in ("jinja2", "onnx_ir", "torch"):
        try:
            found = find_spec(package)  # an import would take seconds
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtraError.of("calibration", package, "calibrate")
