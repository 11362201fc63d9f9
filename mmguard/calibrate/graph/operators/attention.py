"""Attention, and the rotation of queries and keys by their positions."""

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
    """(N, length, heads size) as (N, heads, length, size)."""
    apart: Tensor = x.unflatten(-1, (heads, -1))
    return apart.transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(N, heads, length, size) as (N, length, heads size)."""
    return x.transpose(1, 2).flatten(2)


def masked_softmax(logits: Tensor, bias: Tensor) -> Tensor:
    """Softmax over the last axis of logits + bias; zeros, and no gradient, where the bias is -inf all along it."""
    nothing = bias.amax(-1, keepdim=True) == -torch.inf
    scores = torch.where(nothing, 0, logits + bias)
    return torch.where(nothing, 0, torch.softmax(scores, -1))


@dataclass(frozen=True)
class _Heads:
    """Query (N, Hq, L, E), key (N, Hkv, S, E), value (N, Hkv, S, Ev); `offset` keys came before the first query."""

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
    """softmax(Q Kᵀ scale + bias) V, then the keys and values with the past ones, then the matrix of scores.

    Query, key and value are (N, heads, length, size), or (N, length, heads size) with the numbers of heads given. The
    mask broadcasts to (N, heads, L, S), True or 0 where attended; `lengths` (N,) counts the keys that are no padding.
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
        # Does not hold all scores at once.
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
    """Whether every query sees every key, and the scores are neither altered nor asked for."""
    altered = ("is_causal", "softcap", "softmax_precision")
    windows = ("left_window_size", "right_window_size")
    seen = all(node.attribute(name, -1) < 0 for name in windows)
    return seen and node.outputs < 4 and not any(node.attribute(name, 0) for name in altered)


def _bias(node: Node, heads: _Heads, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
    """What is added to the scores, -inf where a query may not look: broadcastable to (N, heads, L, S)."""
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
    """A mask as numbers to add; the keys that it does not reach are hidden."""
    added = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask
    return F.pad(added, [0, length - mask.shape[-1]], value=-torch.inf)


@operator("RotaryEmbedding", attributes=("interleaved", "num_heads", "rotary_embedding_dim"))
def rotary_embedding(node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """`x` (N, heads, length, size), or (N, length, heads size), with pairs of its elements rotated by their angles.

    The angles' cos and sin are (N, length, size / 2), or (most positions, size / 2) with `positions` (N, length). The
    pairs are the two halves of the rotated elements, or neighbours if `interleaved` (arXiv:2104.09864).
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
    """Reads a state that is a sum of outer products of keys and values; then that state (N, Hkv, E, Ev).

    Query, key, value, decay (in logarithms) and rate are (N, length, heads size). The rules with `delta` in their names
    write only what the state does not give for the key already.
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
