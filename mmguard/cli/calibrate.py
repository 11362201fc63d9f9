"""`mmguard calibrate`: learn bounds from clean inputs and write a guard bundle."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, Device, app
from mmguard.cli.inspect import describe_bundle
from mmguard.cli.options import MethodOptions, read_class_names
from mmguard.cli.progress import announced_resume, watched
from mmguard.inputs.preprocessing.options import PreprocessingOptions
from mmguard.pipeline.api import calibrate_model
from mmguard.pipeline.paths import checkpoint_path, default_out
from mmguard.pipeline.request import AUDIT_MINUTES

ImageOptions = Annotated[PreprocessingOptions, Parameter(name="*")]


@app.command
def calibrate(
    model: Path,
    clean: Path,
    *,
    out: Path | None = None,
    method: MethodOptions | None = None,
    logits: str | None = None,
    sites: str = "all",
    classes: Path | None = None,
    images: ImageOptions | None = None,
    seed: int = 0,
    device: Device = "cpu",
    name: str | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    no_audit: bool = False,
    audit_minutes: float = AUDIT_MINUTES,
) -> int:
    """Learn bounds from clean inputs and write a guard bundle. Resume an interrupted run with --resume.

    Parameters
    ----------
    model
        ONNX file of the classifier.
    clean
        Calibration set: a folder of images, with or without a subfolder for each class; an .npz file with an array x
        (and optionally y); an .npy file; or a .csv file with column names in its first row (and optionally a column
        called label).
    out
        Folder to write the bundle to. By default, the name of MODEL with the suffix .mmguard, in the current folder.
    logits
        ONNX name of the value that contains the logits (N, K), if mmguard cannot find the logits.
    sites
        Activations to clip: all; last (the activations of the last stage); or comma-separated patterns that match the
        names of values or operators listed by `mmguard inspect MODEL`, such as `*layer4*` or `Relu,Gelu`.
    classes
        Text file with one class name per line, in the order of the model's outputs.
    seed
        Random seed.
    device
        Device to run the calibration on.
    name
        Name of the bundle in metrics and URLs. By default, MODEL's name without its suffix.
    skip_bad
        Skip files that cannot be decoded, and rows of arrays that contain NaN or infinite values.
    resume
        Continue from the checkpoint that an interrupted calibration with the same arguments left next to --out.
    no_audit
        Skip the search for the largest margins, which only the audit and the report need. The search takes a large part
        of the calibration time, or most of it if there are many classes. Without the search, `mmguard audit` cannot
        reach a verdict.
    audit_minutes
        Maximum duration of this search, in minutes. If it would take longer, it takes fewer steps and leaves out
        scales, and the log, the bundle and `mmguard audit` say so.
    """
    method, images = method or MethodOptions(), images or PreprocessingOptions()
    out = out or default_out(model)
    with watched() as watch, announced_resume(watch, checkpoint_path(out)):
        path = calibrate_model(
            model,
            clean,
            settings=method.settings(),
            out=out,
            name=name,
            logits=logits,
            sites=sites,
            classes=read_class_names(classes),
            preprocessing=images.preprocessing(),
            seed=seed,
            device=device,
            skip_bad=skip_bad,
            resume=resume,
            audit=not no_audit,
            audit_minutes=audit_minutes,
            on_round=watch.on_round,
            on_progress=watch.on_progress,
        )
    print(describe_bundle(Bundle.open(path)))
    return DONE
