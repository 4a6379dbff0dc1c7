"""Attention by plain products of matrices, for passes short enough that all weights may exist at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout as dropped

from rlhf_lightning.functional.processor import multiplies_bf16
from rlhf_lightning.models.dtypes import computed_in

# Tokens that a query sees. In bfloat16 torch's fused attention on a CPU takes three times as long, with gradients four,
# in float32 a fifth more up to here; beyond, it is better, or the weights, which are kept for the gradients, would
# outweigh what else a layer keeps.
_WIDEST = {torch.bfloat16: 512, torch.float32: 128}
# Of one call.
_MOST_WEIGHTS = 2**25


def suits_plain(query: Tensor, key: Tensor) -> bool:
    """Whether :func:`plain_attention` computes faster what torch's fused attention does, on a CPU.

    Shapes:
        query: [b, h, n, d]; key: [b, h', m, d].
    """
    if query.device.type != "cpu":
        return False
    rows, heads, width, _ = query.shape
    dtype = computed_in(query)
    if dtype == torch.bfloat16 and not multiplies_bf16():
        return False
    if width == 1 and not torch.is_grad_enabled():  # as in decoding
        return dtype == torch.bfloat16
    return key.shape[2] <= _WIDEST.get(dtype, 0) and rows * heads * width * key.shape[2] <= _MOST_WEIGHTS


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """``softmax(s · q kᵀ) v`` over the tokens that are seen; for a query that sees none, the mean over all.

    Shapes:
        query: [b, h, n, d]; key: [b, h', m, d]; value: [b, h', m, e], where h' divides h.
        sees: [b or 1, 1, n, m], bool, or ``None``: what stands before a token and itself, where n = m, and everything
            where n = 1.
        scaling: s; by default 1/√d.
        dropout: of the weights, with this probability.
        Result: [b, n, h, e].
    """
    dtype = computed_in(query)
    rows, heads, width, size = query.shape
    seen, group = key.shape[2], heads // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):  # which would have the weights in float32
        # The queries that share a head of keys stand below one another, so that no key is copied.
        query = query.to(dtype).reshape(rows * key.shape[1], group * width, size)
        key, value = (states.to(dtype).reshape(len(query), *states.shape[2:]) for states in (key, value))
        if sees is None:
            sees = torch.ones(width, seen, dtype=torch.bool).tril(seen - width).view(1, 1, width, seen)
        hidden = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
        # One for each head of keys; the same for all rows where it is.
        hidden = hidden.expand(-1, heads // group if len(hidden) > 1 else 1, -1, -1).flatten(0, 1).repeat(1, group, 1)
        scores = torch.baddbmm(hidden, query, key.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
        weights = scores.softmax(-1)
        if dropout:
            weights = dropped(weights, dropout)
        return torch.bmm(weights, value).view(rows, heads, width, value.shape[2]).transpose(1, 2).contiguous()
