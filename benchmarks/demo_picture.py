"""Draw what the guard did in a run of `mmguard demo`: `python -m benchmarks.demo_picture FOLDER docs/demo.png`.

FOLDER is the demo's own `--out`. Each column is one test image, above as it is and below with the trigger.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

CLASSES = (3, 4, 7, 8, 9)
"""True classes of the digits that are shown, one image of each."""
GREY, RED, GREEN = "#4b5563", "#b3261e", "#1e6b38"
INCHES, DPI = (8.4, 4.9), 130


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(arguments.folder, arguments.out)


def draw(folder: Path, out: Path) -> None:
    """Draw the picture from a demo's folder."""
    truth = json.loads((folder / "truth.json").read_text())
    rows = {row["input"]: row for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines())}
    figure, axes = plt.subplots(2, len(CLASSES), figsize=INCHES, facecolor="white")
    for column, label in enumerate(CLASSES):
        number = first_of(label, truth)
        for axis, kind in zip(axes[:, column], ("plain", "patched"), strict=True):
            name = f"{kind}-{number}.png"
            show(axis, np.asarray(Image.open(folder / "suspect" / name)), rows[name])
    for axis, words in zip(axes[:, 0], ("plain", "with trigger"), strict=True):
        axis.set_ylabel(words, fontsize=12, color="black", labelpad=8)
    figure.subplots_adjust(left=0.04, right=0.995, top=0.985, bottom=0.14, wspace=0.06, hspace=0.46)
    figure.savefig(out, dpi=DPI, metadata={"Software": None})


def first_of(label: int, truth: dict[str, dict[str, Any]]) -> str:
    """The number of the first test image of a class."""
    names = sorted(name for name, each in truth.items() if each["label"] == label and not each["triggered"])
    return names[0].removeprefix("plain-").removesuffix(".png")


def show(axis: Axes, image: np.ndarray[Any, Any], row: dict[str, Any]) -> None:
    """Draw an image with what the original network says, and what the guard answers, below it."""
    axis.imshow(image, cmap="gray_r", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    colour = RED if row["flagged"] else GREY
    for side in axis.spines.values():
        side.set_color(colour)
        side.set_linewidth(2.4 if row["flagged"] else 0.8)
    verdict = ", flagged" if row["flagged"] else ""
    lines = (
        (f"model: {row['original_label']}", colour, "normal"),
        (f"guard: {row['label']}{verdict}", GREEN, "bold"),
    )
    for i, (text, shade, weight) in enumerate(lines):
        place = (0.5, -0.13 - 0.14 * i)
        axis.text(*place, text, transform=axis.transAxes, ha="center", fontsize=11, color=shade, weight=weight)


if __name__ == "__main__":
    main()
