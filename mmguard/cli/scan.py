"""`mmguard scan`: judge files and folders."""

import json
from pathlib import Path

from mmguard.cli.app import DONE, FOUND, Device, app
from mmguard.cli.formatting import (
    console,
    describe_scan,
)
from mmguard.cli.rows import check_rows_file, rows_file
from mmguard.guard import Guard, Policy
from mmguard.guard.policy import OnFlag
from mmguard.guard.scan import scan as scan_rows
from mmguard.guard.scan import summarise
from mmguard.guard.sessions import PROVIDERS


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
