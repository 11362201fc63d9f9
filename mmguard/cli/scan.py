"""`mmguard scan`: judge files and folders."""

import json
from pathlib import Path

from mmguard.cli.app import DONE, FOUND, Device, app
from mmguard.cli.console import console
from mmguard.cli.rows import check_rows_file, rows_file
from mmguard.detection.screen import DEFAULT_SHARE
from mmguard.guard import Guard, Policy
from mmguard.guard.policy import OnFlag
from mmguard.guard.scan import Summary, summarise
from mmguard.guard.scan import scan as scan_rows
from mmguard.guard.sessions import PROVIDERS
from mmguard.text.format import first_few
from mmguard.text.sanitize import sanitize


@app.command
def scan(
    bundle: Path,
    inputs: Path,
    *,
    out: Path | None = None,
    on_flag: OnFlag = "correct",
    min_confidence: float = 0.0,
    screen: float = DEFAULT_SHARE,
    device: Device = "cpu",
    skip_bad: bool = False,
    fail_on_flag: bool = False,
) -> int:
    """Judge inputs and print one line of JSON for each input.

    Exits with code 3 if more inputs have p ≤ θ than chance explains: scans of only clean inputs would exceed that
    number at most once in 1,000 scans.

    Every file in a folder and its subfolders is treated as an input, regardless of its name, except operating-system
    files such as Thumbs.db, which are listed as skipped. The scan stops at the first file that cannot be decoded,
    unless --skip-bad is set. If an image file has several frames, only the first frame is judged.

    Parameters
    ----------
    bundle
        Folder of the guard bundle.
    inputs
        Folder of images, an image, an .npy file, an .npz file with an array x, or a .csv file. The columns
        of a .csv file are matched by name if the bundle was calibrated on a .csv file.
    out
        File to write the lines to. By default, standard output.
    on_flag
        What to do with the label of a flagged input.
    min_confidence
        Smallest confidence, from 0 to 1, with which a corrected label is returned; below it, the guard abstains.
    screen
        Share of clean inputs, from 0 to 1, on which the clipped network may run. It runs only on inputs that look
        unusual in the original network. With 0 or 1, it runs on every input; a share below θ counts as θ.
    device
        Device that the networks run on.
    skip_bad
        Continue if an input cannot be read or cannot be judged. The line of that input then contains the error.
    fail_on_flag
        Exit with code 3 if any input is flagged.
    """
    if out is not None:
        check_rows_file(out, bundle, inputs)
    policy = Policy(on_flag=on_flag, on_error="closed", min_confidence=min_confidence, screen=screen)
    with Guard(bundle, providers=PROVIDERS[device], policy=policy, registry=None) as guard:
        rows = []
        with rows_file(out) as file:
            for row in scan_rows(guard, inputs, skip_bad):
                print(json.dumps(row), file=file)
                rows.append(row)
        summary = summarise(guard, rows)
    console.print(describe_scan(summary), markup=False, soft_wrap=True)
    return FOUND if summary.alarming or (fail_on_flag and summary.flagged) else DONE


def describe_scan(summary: Summary) -> str:
    """Return a one-line summary of a scan: its counts, and how many inputs with p ≤ θ chance explains.

    Args:
        summary: the counts.
    """
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
    counts = [
        f"{summary.inputs} input{'s' * (summary.inputs != 1)}",
        f"{summary.flagged} flagged" + (f" ({reasons})" if reasons else ""),
        f"{summary.corrected} corrected",
        f"{summary.unreadable} unreadable",
        f"{summary.untested} untested",
    ]
    if summary.skipped:
        counts.append(f"{len(summary.skipped)} skipped ({sanitize(first_few(summary.skipped))})")
    if summary.first_frames:
        counts.append(f"{summary.first_frames} with several frames (only the first frame was judged)")
    verdict = "the bundle has no test, so no input is flagged"
    if summary.limit is not None:
        chance = f"chance explains at most {summary.limit} (in 999 of 1,000 scans of only clean inputs)"
        verdict = f"{summary.improbable} with p ≤ θ; {chance}"
    return f"{', '.join(counts)}; {verdict}"
