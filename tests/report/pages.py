"""Manifests and evidence to render pages from, and a parser for the pages."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from mmguard.bundle.manifest import Manifest
from mmguard.report import Evidence, normal_scores
from mmguard.types import FloatArray, SiteClipping

HASHES = {"original.onnx": "ab" * 32, "weights.data": "cd" * 32}
VOID = {"meta", "br", "line", "rect", "circle", "polyline", "polygon"}


def evidence_of(manifest: Manifest, p_values: FloatArray | None = None) -> Evidence:
    """Evidence that fits a manifest; without p-values of the calibration set, they are spread evenly."""
    clipping = tuple(SiteClipping(site.value, 0.0125, 0.5, 0.75) for site in manifest.sites)
    if manifest.null is None:
        return Evidence(HASHES, clipping)
    n = manifest.calibration.n
    spread = (np.arange(n) + 0.5) / n
    return Evidence(
        HASHES,
        clipping,
        normal_scores(spread if p_values is None else p_values),
    )


def with_classes(manifest: Manifest, names: tuple[str, ...], original: FloatArray, clipped: FloatArray) -> Manifest:
    """The same calibration of a model with other classes, and these margins (K,)."""
    assert manifest.null is not None
    criteria = tuple(
        replace(each, parameters=each.parameters | {"intercepts": (0.0,) * len(names)})
        if "intercepts" in each.parameters
        else each
        for each in manifest.null.criteria
    )
    return replace(
        manifest,
        classes=names,
        null=replace(manifest.null, criteria=criteria),
        calibration=replace(
            manifest.calibration,
            original_margins={"sample": tuple(original.tolist())},
            clipped_margins={"sample": tuple(clipped.tolist())},
        ),
    )


def with_scales(manifest: Manifest, original: dict[str, FloatArray], clipped: dict[str, FloatArray]) -> Manifest:
    """The same calibration with these margins (K,) by scale."""
    margins = [{scale: tuple(each.tolist()) for scale, each in scales.items()} for scales in (original, clipped)]
    figures = replace(manifest.calibration, original_margins=margins[0], clipped_margins=margins[1])
    return replace(manifest, calibration=figures)


class Reader(HTMLParser):
    """The text of a page as one line, its elements, and whether each is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    def count(self, tag: str, name: str = "") -> int:
        """Elements of a tag, of a class where one is named."""
        return sum(
            found == tag and (not name or name in (attributes.get("class") or "").split())
            for found, attributes in self.elements
        )
