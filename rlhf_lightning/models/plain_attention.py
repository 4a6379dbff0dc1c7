"""Attention by plain products of matrices, for batches short enough that all weights may exist at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped

# Tokens that a query sees. In bfloat16 torch's fused attention on a CPU takes three times as long, with gradients four,
# in float32 a fifth more up to here; beyond, it is better, or the weights would need too much memory.
_WIDEST = {torch.bfloat16: 1024, torch.float32: 128}


def suits_plain(query: Tensor, key: Tensor, options: dict[str, Any]) -> bool:
    """Whether :func:`plain_attention` computes what torch's fused attention does, and faster.

    Shapes:
        query: [b, h, n, d]; key: [b, h', m, d].
    """
    plain = options.get("position_bias") is None
    return plain and query.device.type == "cpu" and key.shape[2] <= _WIDEST.get(_computed_in(query), 0)


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """``softmax(s · q kᵀ) v`` over the tokens that are seen, as an attention function of transformers.

    Shapes:
        query: [b, h, n, d]; key: [b, h', m, d]; value: [b, h', m, e], where h' divides h.
        sees: [b, 1, n, m], bool, or ``None``: what stands before a token and itself, where n = m.
        scaling: s; by default 1/√d.
        dropout: of the weights, with this probability.
        Result: [b, n, h, e].
    """
    dtype = _computed_in(query)
    rows, heads, width, size = query.shape
    group = heads // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):  # which would have the weights in float32
        query = query.to(dtype).reshape(rows * heads, width, size)
        key, value = (_for_each_head(states.to(dtype), group) for states in (key, value))
        if sees is None:
            sees = torch.ones(width, width, dtype=torch.bool).tril()
        hidden = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
        if hidden.dim() == 4:
            hidden = hidden.expand(-1, heads, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(hidden, query, key.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
        weights = dropped(scores.softmax(-1), dropout, training=dropout > 0)
        return torch.bmm(weights, value).view(rows, heads, width, -1).transpose(1, 2), None


def _computed_in(query: Tensor) -> torch.dtype:
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _for_each_head(states: Tensor, group: int) -> Tensor:
    """[b, h', m, d] as [b · h, m, d], each head for its group of queries."""
    if group > 1:
        states = states.repeat_interleave(group, 1)
    return states.reshape(-1, *states.shape[2:])
