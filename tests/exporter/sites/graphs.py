"""Small graphs as text, for the tests of clip sites."""

import re

import numpy as np
import onnx_ir as ir

from mmguard.exporter.sites import Survey, survey

NEWEST = '<ir_version: 10, opset_import: ["" : 24]>'
CONTRIBUTED = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'

WEIGHTS = {"k": (4, 4, 1, 1), "w": (4, 3), "square": (4, 4), "flat": (64, 3), "bias": (4,)}
"""Shapes of the weights that a graph may use."""

CONVOLVED = "c = Conv(x, k) {} pooled = GlobalAveragePool(y) features = Flatten(pooled) logits = MatMul(features, w)"
"""A network around nodes that make y of c, both (N, 4, 4, 4)."""


def graph(
    body: str, shape: str = "n, 4, 4, 4", constants: str = "", header: str = NEWEST, dtype: str = "float"
) -> ir.Model:
    """A model of x with such a shape.

    Args:
        body: nodes that give `logits`. constants: beside the weights that it uses, as ONNX text.
        dtype: of x, the weights and the logits.
    """
    used = {name: size for name, size in WEIGHTS.items() if re.search(rf"\b{name}\b", body)}
    weights = [_weight(name, size, dtype) for name, size in used.items()]
    declared = ", ".join(filter(None, [*weights, constants]))
    text = f"{header} g ({dtype}[{shape}] x) => ({dtype}[n, 3] logits) <{declared}> {{ {body} }}"
    return ir.from_onnx_text(text)


def surveyed(body: str, shape: str = "n, 4, 4, 4", constants: str = "", header: str = NEWEST) -> Survey:
    """What the graph has to clip."""
    return survey(graph(body, shape, constants, header), "logits")


def operators(found: Survey) -> list[tuple[str, str]]:
    """Value and operator of each site."""
    return [(site.value, site.operator) for site in found.sites]


def _weight(name: str, size: tuple[int, ...], dtype: str) -> str:
    numbers = np.random.default_rng(len(name)).normal(size=size).round(3).reshape(-1)
    return f"{dtype}[{', '.join(map(str, size))}] {name} = {{{', '.join(map(str, numbers))}}}"
