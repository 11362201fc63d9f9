"""The page of a real bundle in a browser: wide and narrow, light and dark."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.report_screenshots import FLAGS
from mmguard import Bundle
from mmguard.report import render
from tests.networks import write_class_folders, write_tiny
from tests.quick import calibrate
from tests.report.pages import evidence_of, with_classes, with_scales

pytestmark = pytest.mark.heavy

READABLE = 4.5
"""Contrast of text that WCAG 2 requires at level AA."""

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
PAPER = "rgb(255, 255, 255)"

LONG = "a_class_name_without_any_place_to_break_it_" * 4

CONTRAST = """
() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => {
        const linear = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255, 255];
    };
    const elements = document.querySelectorAll("h1, h2, h3, p, th, td, dt, dd, code, strong, figcaption, svg text");
    return [...elements].map(element => {
        const style = getComputedStyle(element);
        const text = luminance(rgb(element instanceof SVGElement ? style.fill : style.color));
        const back = luminance(behind(element));
        return [(Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05), element.textContent.trim()];
    });
}
"""

OUTSIDE_OR_OVERLAPPING = """
() => [...document.querySelectorAll("svg.plot")].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    const outside = texts.filter(([, box]) =>
        box.left < frame.left - 0.5 || box.right > frame.right + 0.5 ||
        box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5);
    const crossed = texts.filter(([, a], i) => texts.some(([, b], j) =>
        i !== j && a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom));
    return [...outside, ...crossed].map(([label]) => label);
})
"""

CUT = """
() => [...document.querySelectorAll("h1, h2, h3, p, th, td, dt, dd, li, figcaption, svg")].filter(element => {
    const box = element.getBoundingClientRect();
    return !element.closest(".scroll") && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(element => element.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "these tests look at the page in Chromium, which is not on the PATH: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by kind: one from a real calibration, and others that are hard to lay out."""
    folder = tmp_path_factory.mktemp("report")
    clean = write_class_folders(folder / "clean", ("cat", "dog", "ship"))
    bundle = Bundle.open(calibrate(folder, write_tiny(folder / "tiny.onnx"), clean))
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    margins, faint = rng.lognormal(3, 0.3, 1000), np.array([-7.0, -6.5, -1.9])
    many = with_classes(manifest, tuple(f"{LONG}{i}" for i in range(1000)), margins, margins / 4)
    many = replace(
        many, name="m" * 128, sites=tuple(replace(site, value=f"/{LONG}/{site.value}") for site in many.sites)
    )
    sources = {
        "crowded": render(many, evidence_of(many, rng.random(many.calibration.n) ** 3)),
        "mmom": render(replace(manifest, null=None), evidence_of(replace(manifest, null=None))),
        "unaudited": render(with_scales(manifest, {}, {}), evidence_of(manifest)),
        "faint": render(with_scales(manifest, {"shared": faint}, {"shared": faint + 3}), evidence_of(manifest)),
    }
    for kind, source in sources.items():
        (folder / f"{kind}.html").write_text(source, encoding="utf-8")
    return {"real": bundle.report(), **{kind: folder / f"{kind}.html" for kind in sources}}


@pytest.fixture(params=["real", "crowded", "mmom", "unaudited", "faint"])
def path(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Browser, path: Path) -> Iterator[Page]:
    """An open page. On closing, checks that it loaded nothing else and logged nothing."""
    width, scheme = request.param
    complaints: list[Any] = []
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    opened.close()
    assert complaints == [path.as_uri()], "the page itself is all that is loaded"


def test_the_page_reads_well(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CUT) == []
    assert page.evaluate(OUTSIDE_OR_OVERLAPPING) == []
    headings = [heading.inner_text() for heading in page.query_selector_all("h1, h2")]
    assert len(headings) == 9
    assert all(headings)
    dim = [(ratio, text) for ratio, text in page.evaluate(CONTRAST) if text and ratio < READABLE]
    assert dim == []


def test_dark_is_dark_and_paper_is_white(browser: Browser, pages: dict[str, Path]) -> None:
    shades = {}
    for scheme in SCHEMES:
        opened = browser.new_page(color_scheme=scheme)
        opened.goto(pages["real"].as_uri())
        shades[scheme] = opened.evaluate(BACKGROUND)
        opened.emulate_media(media="print")
        assert opened.evaluate(BACKGROUND) == PAPER
        opened.close()
    assert shades["light"] == PAPER
    assert shades["dark"] != PAPER
