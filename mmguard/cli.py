"""The `mmguard` command: one function a command, each thin over the library."""

import json
import logging
import signal
import sys
import webbrowser
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from mmguard import __version__
from mmguard.audit import audit as audit_margins
from mmguard.bundle import Bundle
from mmguard.errors import AuditError, MmguardError, OptionError
from mmguard.extras import missing
from mmguard.guard import Guard, Policy
from mmguard.guard.policy import Mode, OnError, OnFlag
from mmguard.guard.scan import scan as scan_rows
from mmguard.guard.scan import summarise
from mmguard.guard.serving.body import MAX_JSON_BYTES, MAX_REQUEST_BYTES
from mmguard.guard.sessions import PROVIDERS
from mmguard.guard.verify import verify_bundle
from mmguard.preprocessing import preprocessing_from
from mmguard.rows import check_rows_file, rows_file
from mmguard.terminal import (
    ConsoleHandler,
    console,
    describe_audit,
    describe_bundle,
    describe_model,
    describe_scan,
)
from mmguard.watch import say_how_to_go_on, watched

DONE, FAILED, WRONG_USE, FOUND, NO_VERDICT = 0, 1, 2, 3, 4

Device = Literal["cpu", "cuda"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

app = App(
    name="mmguard",
    version=__version__,
    help="Guard a deployed classifier against backdoor triggers.",
    help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong use, 3 triggers or a backdoor found, 4 audit without verdict, "
    "130 and 143 interrupted.",
    result_action="return_value",
    default_parameter=Parameter(negative=()),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe's encoding may have no ≤
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()], force=True)
    try:
        code = app(arguments, exit_on_error=False, print_error=True, error_console=console)
    except CycloptsError:
        sys.exit(WRONG_USE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except (MmguardError, OSError) as error:
        console.print(f"mmguard: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(WRONG_USE if isinstance(error, OptionError) else FAILED)
    sys.exit(code if isinstance(code, int) else DONE)


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
    from mmguard.pipeline import calibrate_model, checkpoint_path, default_out

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


@app.command
def inspect(path: Path, *, logits: str | None = None, json: bool = False) -> int:
    """Show what a bundle holds, after checking every file's hash; or what calibration would make of an ONNX file.

    Exit code 1 of an ONNX file: it cannot be calibrated, for the reason that is shown.

    Parameters
    ----------
    path
        Guard bundle, or ONNX file.
    logits
        ONNX name of an ONNX file's logits, (N, K), where they are not found by themselves.
    json
        Print the whole manifest, or all that is found, as JSON.
    """
    if path.suffix == ".onnx" or path.is_file():
        from mmguard.inspection import inspect_model

        found = inspect_model(path, logits)
        print(found.to_json() if json else describe_model(found), end="" if json else "\n")
        return FAILED if found.obstacles else DONE
    opened = Bundle.open(path)
    if json:
        print(opened.manifest.to_json(), end="")
    else:
        print(describe_bundle(opened))
    return DONE


@app.command
def report(bundle: Path, *, open: bool = False) -> int:
    """Print the path of a bundle's page for reviewers, after checking every file's hash.

    Parameters
    ----------
    bundle
        Guard bundle.
    open
        Open it in the browser too.
    """
    page = Bundle.open(bundle).report()
    print(page)
    if open and not webbrowser.open(page.resolve().as_uri()):
        console.print(f"mmguard: no browser was found; open {page} yourself", style="red", markup=False, soft_wrap=True)
        return FAILED
    return DONE


@app.command
def audit(bundle: Path) -> int:
    """Judge whether a bundle's original network is backdoored, and for which class.

    Exit code 3: it is, at 5 %. Exit code 4: there is no verdict, because the model has two classes only, of which
    neither can stand out from the others, or because the bundle was calibrated with --no-audit.

    Parameters
    ----------
    bundle
        Guard bundle.
    """
    manifest = Bundle.open(bundle).manifest
    try:
        found = audit_margins(manifest.calibration.margins())
    except AuditError as error:
        print(f"no verdict: {error}")
        return NO_VERDICT
    print(describe_audit(found, manifest.classes))
    return FOUND if found.backdoored else DONE


@app.command
def verify(bundle: Path, *, device: Device = "cpu") -> int:
    """Check a bundle's hashes, and that both networks give the stored logits here.

    Parameters
    ----------
    bundle
        Guard bundle.
    device
        Where the networks run.
    """
    opened = Bundle.open(bundle)
    difference = verify_bundle(opened, PROVIDERS[device])
    print(f"{bundle}: every file is as the manifest says; the manifest's own sha256 is {opened.digest()}")
    print(f"both networks give the stored logits on {device} within {difference:.1e}")
    return DONE


@app.command
def scan(
    bundle: Path,
    inputs: Path,
    *,
    out: Path | None = None,
    on_flag: OnFlag = "correct",
    device: Device = "cpu",
    skip_bad: bool = False,
    fail_on_flag: bool = False,
) -> int:
    """Judge inputs, one JSON line each. Exit code 3: more of them with p ≤ θ than clean ones would give at 0.1 %.

    Every file below a folder is an input, whatever its name. One that cannot be decoded ends the scan, and is named,
    unless --skip-bad goes on; files of the operating system, such as Thumbs.db, are passed over, with a line that says
    so. Of a file of several frames, the first is judged.

    Parameters
    ----------
    bundle
        Guard bundle.
    inputs
        Folder of images, an image, an .npy, an .npz with x, or a .csv, whose columns are matched by name.
    out
        File for the lines; standard output by default.
    on_flag
        What a flagged input's label becomes.
    device
        Where the networks run.
    skip_bad
        Go on where an input cannot be read, or the networks cannot judge it, with a line that says so.
    fail_on_flag
        Exit code 3 on any flag.
    """
    if out is not None:
        check_rows_file(out, bundle, inputs)
    policy = Policy(on_flag=on_flag, on_error="closed")
    with Guard(bundle, providers=PROVIDERS[device], policy=policy, registry=None) as guard:
        rows = []
        with rows_file(out) as file:
            for row in scan_rows(guard, inputs, skip_bad):
                print(json.dumps(row), file=file)
                rows.append(row)
        summary = summarise(guard, rows)
    console.print(describe_scan(summary), markup=False, soft_wrap=True)
    return FOUND if summary.alarming or (fail_on_flag and summary.flagged) else DONE


@app.command
def serve(
    *bundles: Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    metrics_port: int = 9464,
    mode: Mode = "enforce",
    on_flag: OnFlag = "correct",
    on_error: OnError = "raise",
    timeout: float | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    max_request_mib: int = MAX_REQUEST_BYTES // 2**20,
    max_json_mib: int = MAX_JSON_BYTES // 2**20,
) -> int:
    """Serve bundles by the Open Inference Protocol v2 over HTTP, and their counters at /metrics on another port.

    Parameters
    ----------
    bundles
        Guard bundles; each is a model of its own name.
    host
        Address to listen on.
    port
        Port of the inference protocol.
    metrics_port
        Port of /metrics.
    mode
        Enforce the policy, or shadow: answer as the original and only count.
    on_flag
        What a flagged input's label becomes.
    on_error
        What to do when the clipped network fails or is late: raise, answer untested (open), abstain (closed).
    timeout
        Seconds to wait for the clipped network after the original.
    device
        Where the networks run; cuda never falls back to the CPU.
    threads
        Intra-op threads of each network; half of the cores by default.
    max_request_mib
        Largest body of a request in MiB, also decompressed; a larger one is answered 413.
    max_json_mib
        Largest JSON of a request in MiB; numbers sent as binary tensors are not part of it.
    """
    from mmguard.guard.serving.server import serve as run_server

    if not bundles:
        raise OptionError("serve needs at least one bundle")
    policy = Policy(mode=mode, on_flag=on_flag, on_error=on_error, timeout=timeout)
    run_server(
        bundles,
        host,
        port,
        metrics_port,
        policy=policy,
        providers=PROVIDERS[device],
        threads=threads,
        max_request_bytes=max_request_mib * 2**20,
        max_json_bytes=max_json_mib * 2**20,
    )
    return DONE


@app.command
def demo(*, out: Path = Path("mmguard-demo"), seed: int = 0) -> int:
    """Train a backdoored digit classifier, guard it, attack it, and show what the guard does.

    Parameters
    ----------
    out
        Folder for the model, the images and the bundle.
    seed
        Seed of all randomness.
    """
    try:
        from mmguard.demo import run
    except ModuleNotFoundError as error:
        raise missing("the demo", error.name, "demo") from error
    return run(out, seed)


def _class_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--classes {path} cannot be read: {error}") from error
