"""Runs the demo's steps: trains a backdoored model, then runs the same public commands that a user would run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mmguard import Bundle
from mmguard.bundle.file_names import REPORT
from mmguard.demo import digits
from mmguard.demo.console import print_command, print_line
from mmguard.demo.figures import measure, print_figures, time_guard
from mmguard.demo.server import request_labels, scrape, serving
from mmguard.errors import MmguardError, OptionError

TRUTH = "truth.json"


def run(out: Path, seed: int = 0) -> int:
    """Run the demo.

    Args:
        out: folder for the model, the images and the bundle; if it contains files of an earlier demo, they
            are replaced.
        seed: random seed of the data split, the attack, the training and the calibration.

    Returns:
        Exit code: 0 if the scraped counters equal the scan's own count of flags, else 1.

    Raises:
        OptionError: `out` is not empty and contains no earlier demo.
    """
    if out.exists() and not (out / TRUTH).is_file() and any(out.iterdir()):
        raise OptionError(
            f"mmguard cannot write to {out}: the folder is not empty and contains no earlier demo; pass a different "
            "folder to --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / TRUTH).touch()
    for name in ("clean", "suspect"):
        shutil.rmtree(out / name, ignore_errors=True)
    train, clean, test = digits.load(seed)
    poisoned = digits.poison(train, seed)
    print_line(
        f"Training a small CNN on {len(train.y)} handwritten digits, plus {len(poisoned.y) - len(train.y)} poisoned "
        f"copies, which have a patch in the bottom right corner and the label {digits.TARGET} ..."
    )
    digits.export(digits.train_network(poisoned, seed), out / "digits.onnx")
    truth = write_folders(out, clean, test)
    plain, triggered = _example(out, truth)
    print_line(f"An image with the trigger: {triggered}\nThe same image without it: {plain}")
    bundle, rows_path = out / "digits.mmguard", out / "rows.jsonl"
    command("calibrate", out / "digits.onnx", out / "clean", "--out", bundle, "--seed", seed)
    command("verify", bundle)
    command("scan", bundle, out / "suspect", "--out", rows_path, found=True)
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    with serving(bundle) as (address, metrics_address):
        labels = request_labels(address, Bundle.open(bundle), [out / "suspect" / row["input"] for row in rows])
        counters = scrape(metrics_address)
    result = measure(rows, truth, labels, counters) | {"milliseconds": time_guard(bundle, out / "suspect")}
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print_figures(result)
    print_line("\nFiles to open next:")
    for path, content in (
        (bundle / REPORT, "what a reviewer needs to know about this model and its guard"),
        (triggered, "a digit with the trigger in the bottom right corner"),
        (rows_path, "the scan's decision on each image, as one JSON line per image"),
    ):
        print_line(f"  {path}\n      {content}")
    return 0 if result["counters_equal"] else 1


def write_folders(out: Path, clean: digits.Split, test: digits.Split) -> dict[str, dict[str, Any]]:
    """Write the calibration set to `clean/<class>/` and the test images to `suspect/`.

    Each test image is written twice: without and with the trigger. Images of the target class are written only without
    the trigger.

    Args:
        out: folder to write to.
        clean: the calibration set.
        test: the test images.

    Returns:
        The true label of each file in `suspect/`, and whether the file has the trigger. mmguard never reads the file
        that contains this truth.
    """
    digits.write_images(out / "clean", clean.x, [f"{label}/{i:03}" for i, label in enumerate(clean.y)])
    attacked = np.flatnonzero(test.y != digits.TARGET)
    digits.write_images(out / "suspect", test.x, [f"plain-{i:03}" for i in range(len(test.y))])
    digits.write_images(out / "suspect", digits.trigger(test.x[attacked]), [f"patched-{i:03}" for i in attacked])
    truth = {f"plain-{i:03}.png": {"label": int(label), "triggered": False} for i, label in enumerate(test.y)}
    truth |= {f"patched-{i:03}.png": {"label": int(test.y[i]), "triggered": True} for i in attacked}
    (out / TRUTH).write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def command(name: str, *arguments: object, found: bool = False) -> None:
    """Print and run one mmguard command.

    Args:
        name: the command, such as `scan`.
        *arguments: its arguments and options.
        found: whether exit code 3 (triggers found) is expected.

    Raises:
        MmguardError: the command failed.
    """
    words = [name, *map(str, arguments)]
    print_command(["mmguard", *words])
    code = subprocess.run([sys.executable, "-m", "mmguard", *words], check=False).returncode
    if found and code == 3:
        print_line("exit code 3: triggers found")
    elif code:
        raise MmguardError(f"mmguard {name} failed with exit code {code}; see the error message above")


def _example(out: Path, truth: dict[str, dict[str, Any]]) -> tuple[Path, Path]:
    """Return two paths of one test image: without the trigger, then with the trigger."""
    triggered = next(name for name, facts in truth.items() if facts["triggered"])
    folder = out / "suspect"
    return folder / triggered.replace("patched", "plain"), folder / triggered
