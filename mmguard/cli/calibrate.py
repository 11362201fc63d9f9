"""`mmguard calibrate`: learn bounds from clean inputs and write a guard bundle."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, Device, Interpolation, app
from mmguard.cli.formatting import (
    describe_bundle,
)
from mmguard.cli.progress import say_how_to_go_on, watched
from mmguard.errors import OptionError
from mmguard.inputs.preprocessing import preprocessing_from
from mmguard.pipeline.api import calibrate_model
from mmguard.pipeline.paths import checkpoint_path, default_out


@app.command
def calibrate(
    model: Path,
    clean: Path,
    *,
    out: Path | None = None,
    preset: str = "default",
    objective: Literal["mmac", "mmom", "mmbm"] = "mmac",
    theta: float | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    margin_weight: float | None = None,
    null: Literal["auto", "gaussian", "empirical", "bounded"] | None = None,
    logits: str | None = None,
    sites: str = "all",
    classes: Path | None = None,
    mean: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True)] = None,
    std: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True)] = None,
    scale: float | None = None,
    layout: Literal["NCHW", "NHWC"] | None = None,
    size: str | None = None,
    crop: str | None = None,
    interpolation: Interpolation | None = None,
    channel_order: Literal["RGB", "BGR"] | None = None,
    preprocess: Path | None = None,
    seed: int = 0,
    device: Device = "cpu",
    name: str | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    no_audit: bool = False,
) -> int:
    """Learn bounds from clean inputs and write a guard bundle. After an interruption, --resume continues.

    Parameters
    ----------
    model
        ONNX file of the classifier.
    clean
        Clean inputs: a folder per class, a flat folder, an .npz with x (and y), an .npy, or a .csv with a row of names
        first (and a column label).
    out
        Bundle folder to write; the default is MODEL's stem with .mmguard, in the current folder.
    preset
        Settings of the calibration: default, paper (as its text says) or reference (as its authors' code does).
    objective
        What the bounds minimise: mmac for a guard; mmom, which needs labels, for a corrected model without a test,
        where a model is overfitted but not backdoored; mmbm, a baseline, for a guard of small bounds.
    theta
        Level of the confidence test; mmom makes none.
    rounds
        Largest number of rounds; the default preset runs as many again without each fifth of the clean inputs.
    budget
        What clipping may cost: mean squared change of the logits on the clean inputs, as a share of their variance;
        0.03 in the default preset.
    margin_weight
        Weight λ of the penalty at the start.
    null
        What p-values are read off: gaussian, a curve fitted to the clean inputs; empirical, an input's rank among them,
        which assumes nothing of their distribution but needs at least 1/theta - 1 of them; bounded, the curve, but no
        p-value below that of the rank, which falls slowly above the highest clean score; or auto, the default
        preset's: bounded with fewer than 2/theta clean inputs, else the curve, unless more of them reach theta than
        chance explains.
    logits
        ONNX name of the logits, (N, K), where they are not found by themselves.
    sites
        Activations to clip: all; last, those of the last stage; or patterns, separated by commas, on names of values or
        operators as `mmguard inspect MODEL` lists them, such as '*layer4*' or 'Relu,Gelu'.
    classes
        Text file with one class name a line, in the order of the model's outputs.
    mean
        Mean that is subtracted from scaled pixels, one number or one a channel in the model's order.
    std
        Standard deviation that they are divided by, one number or one a channel.
    scale
        Factor on pixels of 0 to 255; 1/255 by default, 1 for a model that takes uint8.
    layout
        Layout of the model's input; by default what its shape tells.
    size
        Resize images, before any crop: 256x192 to this height and width, whatever their aspect; 256 with a crop to a
        shorter edge of 256, their aspect kept, and without one to 256x256.
    crop
        Cut this height and width, such as 224 or 224x192, from the middle of the resized image.
    interpolation
        Pillow's filter for resizing; bilinear by default.
    channel_order
        Order of the model's colour channels; RGB by default.
    preprocess
        Read how images become inputs from this file: Hugging Face's preprocessor_config.json, or timm's config.json.
        The options above override what it says.
    seed
        Seed of all randomness.
    device
        Where calibration computes.
    name
        Name of the bundle in metrics and URLs; MODEL's stem by default.
    skip_bad
        Leave out files that cannot be decoded, and rows of arrays that are not finite.
    resume
        Continue from the checkpoint that an interrupted calibration with the same arguments left beside --out.
    no_audit
        Leave out the search for the largest margins, which only the audit and the report need: much of the time, and
        most of it where there are many classes. `mmguard audit` then gives no verdict.
    """
    out = out or default_out(model)
    with watched() as watch, say_how_to_go_on(watch, checkpoint_path(out)):
        path = calibrate_model(
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
            classes=_class_names(classes),
            preprocessing=preprocessing_from(
                file=preprocess,
                mean=mean,
                std=std,
                scale=scale,
                layout=layout,
                size=size,
                crop=crop,
                interpolation=interpolation,
                channel_order=channel_order,
            ),
            seed=seed,
            device=device,
            skip_bad=skip_bad,
            resume=resume,
            audit=not no_audit,
            on_round=watch.on_round,
            on_progress=watch.on_progress,
        )
    print(describe_bundle(Bundle.open(path)))
    return DONE


def _class_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--classes {path} cannot be read: {error}") from error
