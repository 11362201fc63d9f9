"""Random ONNX graphs: for each operator a function that draws a node of it, and a chain of such nodes."""

from tests.calibrate.graph.drawn import arithmetic, fused, images, indices, products, quantised, shapes
from tests.calibrate.graph.drawn.draw import DRAWN

__all__ = ["DRAWN", "arithmetic", "fused", "images", "indices", "products", "quantised", "shapes"]
