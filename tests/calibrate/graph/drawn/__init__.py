"""Random ONNX graphs: one function per operator that draws a node, and chains of such nodes."""

from tests.calibrate.graph.drawn import arithmetic, fused, images, indices, products, quantised, shapes
from tests.calibrate.graph.drawn.draw import DRAWN

__all__ = ["DRAWN", "arithmetic", "fused", "images", "indices", "products", "quantised", "shapes"]
