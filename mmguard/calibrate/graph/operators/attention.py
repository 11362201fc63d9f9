"""Attention operators and rotary position embeddings."""

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import alike

ATTRIBUTES = (
    "is_causal",
    "kv_num_heads",
    "left_window_size",
    "q_num_heads",
    "qk_matmul_output_mode",
    "right_window_size",
    "scale",
    "softcap",
    "softmax_precision",
)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the last axis into attention heads.

    Args:
        x: (N, length, heads * size).
        heads: number of heads.

    Returns:
        A view (N, heads, length, size).

    Example:
        >>> tuple(split_heads(torch.zeros(2, 5, 12), heads=3).shape)
        (2, 3, 5, 4)
    """
    apart: Tensor = x.unflatten(-1, (heads, -1))
    return apart.transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Join attention heads into one axis; the inverse of `split_heads`.

    Args:
        x: (N, heads, length, size).

    Returns:
        A tensor (N, length, heads * size).

    Example:
        >>> tuple(join_heads(torch.zeros(2, 3, 5, 4)).shape)
        (2, 5, 12)
    """
    return x.transpose(1, 2).flatten(2)


def masked_softmax(logits: Tensor, bias: Tensor) -> Tensor:
    """Compute the softmax of logits + bias over the last axis, with zeros in rows whose bias is -inf everywhere.

    The gradient of these rows is zero too. A plain softmax would return NaN for these rows.

    Args:
        logits: attention scores (..., S).
        bias: additive mask (..., S), broadcastable to the logits; -inf hides a key.

    Returns:
        Attention weights (..., S).
    """
    nothing = bias.amax(-1, keepdim=True) == -torch.inf
    scores = torch.where(nothing, 0, logits + bias)
    return torch.where(nothing, 0, torch.softmax(scores, -1))


@dataclass(frozen=True)
class _Heads:
    """Inputs of attention, split into heads: query (N, Hq, L, E), key (N, Hkv, S, E) and value (N, Hkv, S, Ev).

    `offset` is the number of keys that precede the first query.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    offset: Tensor | int


@operator("Attention", attributes=ATTRIBUTES)
def attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Compute softmax(scale Q Kᵀ + bias) V.

    Query, key and value are (N, heads, length, size), or (N, length, heads * size) if attributes set the numbers of
    heads. The mask broadcasts to (N, heads, L, S). A Boolean mask is True for each key that a query may attend to. An
    additive mask is 0 for these keys. `lengths` (N,) contains the number of keys that are not padding.

    Returns:
        The result, the keys including the past keys, the values including the past values, and the scores. If the node
            has n < 4 outputs, only the first n of these four are returned.
    """
    packed = query.dim() == 3
    if packed:
        heads, shared = node.required("q_num_heads"), node.required("kv_num_heads")
        query, key, value = split_heads(query, heads), split_heads(key, shared), split_heads(value, shared)
    offset: Tensor | int = 0
    if past_key is not None and past_value is not None:
        key, value = torch.cat(alike(past_key, key), 2), torch.cat(alike(past_value, value), 2)
        offset = past_key.shape[2]
    elif lengths is not None:
        offset = (lengths - query.shape[2]).reshape(-1, 1, 1, 1)
    result, scores = _attend(node, _Heads(query, key, value, offset), mask, lengths)
    return (join_heads(result) if packed else result, key, value, scores)[: node.outputs]


def _attend(node: Node, heads: _Heads, mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    repeats = heads.query.shape[1] // heads.key.shape[1]
    key, value = (part.repeat_interleave(repeats, 1) for part in (heads.key, heads.value))
    if mask is None and lengths is None and _plain(node):
        # PyTorch's fused attention does not keep all scores in memory at once.
        return F.scaled_dot_product_attention(heads.query, key, value, scale=node.attribute("scale", None)), None
    scale = sqrt(node.attribute("scale", 1 / sqrt(heads.query.shape[-1])))
    raw = (heads.query * scale) @ (key * scale).transpose(-1, -2)
    softcap = node.attribute("softcap", 0.0)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    bias = _bias(node, heads, mask, lengths).to(raw.dtype)
    precision = node.attribute("softmax_precision", 0)
    dtype = node.dtype(precision) if precision else raw.dtype
    weights = masked_softmax(capped.to(dtype), bias.to(dtype)).to(raw.dtype)
    modes = (raw, capped, capped + bias, weights)
    return weights @ value, modes[node.attribute("qk_matmul_output_mode", 0)]


def _plain(node: Node) -> bool:
    """Return whether every query attends to every key and the scores are neither modified nor returned."""
    altered = ("is_causal", "softcap", "softmax_precision")
    windows = ("left_window_size", "right_window_size")
    seen = all(node.attribute(name, -1) < 0 for name in windows)
    return seen and node.outputs < 4 and not any(node.attribute(name, 0) for name in altered)


def _bias(node: Node, heads: _Heads, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return the bias to add to the scores, broadcastable to (N, heads, L, S); -inf hides a key from a query."""
    query, key = heads.query, heads.key
    columns = torch.arange(key.shape[2], device=query.device)
    ahead = columns - torch.arange(query.shape[2], device=query.device)[:, None] - heads.offset
    allowed = torch.ones_like(ahead, dtype=torch.bool)
    if node.attribute("is_causal", 0):
        allowed = allowed & (ahead <= 0)
    if (left := node.attribute("left_window_size", -1)) >= 0:
        allowed = allowed & (ahead >= -left)
    if (right := node.attribute("right_window_size", -1)) >= 0:
        allowed = allowed & (ahead <= right)
    if lengths is not None:
        allowed = allowed & (columns < lengths.reshape(-1, 1, 1, 1))
    bias = torch.where(allowed, 0.0, -torch.inf)
    return bias if mask is None else bias + _additive(mask.to(query.device), key.shape[2])


def _additive(mask: Tensor, length: int) -> Tensor:
    """Convert a mask to a bias for the scores. The bias is -inf for keys beyond the end of the mask."""
    added = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask
    return F.pad(added, [0, length - mask.shape[-1]], value=-torch.inf)


@operator("RotaryEmbedding", attributes=("interleaved", "num_heads", "rotary_embedding_dim"))
def rotary_embedding(node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """Rotate pairs of elements of each vector in x by angles that depend on the vector's position (arXiv:2104.09864).

    `x` is (N, heads, length, size) or (N, length, heads * size). Without `positions`, `cos` and `sin` are
    (N, length, size / 2). With `positions` (N, length), `cos` and `sin` are (maximum length, size / 2), and `positions`
    selects the row of both tables for each vector. If `interleaved` is set, neighbouring elements are paired.
    Otherwise, each element of the first half of a vector is paired with the corresponding element of the second half.

    Returns:
        A tensor of the same shape as x.
    """
    packed = x.dim() == 3
    heads = split_heads(x, node.required("num_heads")) if packed else x
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = node.attribute("rotary_embedding_dim", 0) or heads.shape[-1]
    turned, rest = heads[..., :size], heads[..., size:]
    pair = (-1, 2) if node.attribute("interleaved", 0) else (2, -1)
    a, b = turned.unflatten(-1, pair).unbind(-1 if pair == (-1, 2) else -2)
    rotated = torch.stack([cos * a - sin * b, sin * a + cos * b], -1 if pair == (-1, 2) else -2).flatten(-2)
    result = torch.cat([rotated, rest], -1)
    return join_heads(result) if packed else result


@operator("LinearAttention", attributes=("chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule"))
def linear_attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor | None = None,
    decay: Tensor | None = None,
    rate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute linear attention, whose state is a sum of outer products of keys and values.

    Query, key, value, decay (the logarithm of the decay factor) and rate are (N, length, heads * size). With the update
    rules `delta` and `gated_delta`, the value that the state returns for the key is first subtracted from the value.

    Returns:
        The result (N, length, heads * size) and the final state (N, Hkv, E, Ev).
    """
    heads, shared = node.required("q_num_heads"), node.required("kv_num_heads")
    dtype, kept = query.dtype, (query if state is None else state).dtype
    q, k, v = split_heads(query, heads), split_heads(key, shared), split_heads(value, shared)
    q, k, v = q.float(), k.float(), v.float()
    fades = None if decay is None else split_heads(decay.float(), shared).exp()
    rates = None if rate is None else split_heads(rate.float(), rate.shape[-1])
    memory = q.new_zeros(len(q), shared, k.shape[-1], v.shape[-1]) if state is None else state.float()
    reads = []
    for step in range(q.shape[2]):
        memory = memory if fades is None else memory * fades[:, :, step, :, None]
        new = v[:, :, step]
        if rates is not None:
            new = rates[:, :, step] * (new - torch.einsum("bhdm,bhd->bhm", memory, k[:, :, step]))
        memory = memory + k[:, :, step, :, None] * new[:, :, None]
        wide = memory.repeat_interleave(heads // shared, 1)
        reads.append(torch.einsum("bhd,bhdm->bhm", q[:, :, step], wide))
    scale = node.attribute("scale", 0.0) or 1 / sqrt(q.shape[-1])
    return join_heads(scale * torch.stack(reads, 2)).to(dtype), memory.to(kept)
