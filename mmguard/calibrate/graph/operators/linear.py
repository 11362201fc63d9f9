"""Matrix products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator


@operator("Gemm", attributes=("alpha", "beta", "transA", "transB"))
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """`alpha A B + beta C`, where A is (M, J) and B is (J, K) after any transposition, and C is broadcast to (M, K)."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a = a.T if node.attribute("transA", 0) else a
    if node.attribute("transB", 0) and alpha == beta == 1 and (c is None or c.dim() == 1):
        return F.linear(a, b, c)
    product = a @ (b.T if node.attribute("transB", 0) else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


@operator("MatMul")
def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Matrix product, with the semantics of NumPy's matmul."""
    return torch.matmul(a, b)


@operator("Einsum", attributes=("equation",))
def einsum(node: Node, *operands: Tensor) -> Tensor:
    """Einstein summation according to `equation`."""
    return torch.einsum(node.required("equation"), *operands)
