"""Take screenshots of a bundle's report for the docs: wide in light and dark, narrow in light. Needs Chromium.

python -m benchmarks.report_screenshots model.mmguard docs
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from mmguard import Bundle

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
COLOURS = 64
"""Colours in the files' palette; enough for a page of text, and keeps the files small."""


@dataclass(frozen=True)
class Shot:
    """One screenshot: the file name and the browser's settings, with sizes in CSS pixels."""

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"]


SHOTS = (
    Shot("report-light", 1280, 2980, "light"),
    Shot("report-dark", 1280, 2980, "dark"),
    Shot("report-narrow", 360, 1200, "light"),
)


def take(browser: Browser, page_path: Path, shot: Shot, out: Path) -> None:
    """Write the top part of a page as a PNG with a palette."""
    viewport = {"width": shot.width, "height": shot.height}
    page = browser.new_page(viewport=viewport, color_scheme=shot.scheme)  # type: ignore[arg-type]
    page.goto(page_path.resolve().as_uri())
    page.screenshot(path=out)
    page.close()
    with Image.open(out) as image:
        image.convert("RGB").quantize(COLOURS).save(out, optimize=True)


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path, help="folder to write the PNG files to")
    options = parser.parse_args()
    report = Bundle.open(options.bundle).report()
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("chromium is not on the PATH; install it with apt-get install chromium")
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for shot in SHOTS:
            take(browser, report, shot, options.out / f"{shot.name}.png")
        browser.close()


if __name__ == "__main__":
    main()
