"""Sequences of one row laid out as padded batches, and put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def batch_of(starts: Tensor, lengths: Tensor, count: int, width: int) -> Tensor:
    """The token in each place of a padded batch.

    Shapes:
        starts, lengths: [b], of sequences in a row of ``count`` tokens. Result: [b, ``width``], ``count`` where there
            is no token.
    """
    column = torch.arange(width)
    return torch.where(column < lengths.unsqueeze(1), starts.unsqueeze(1) + column, count)


def places(source: Tensor, count: int) -> Tensor:
    """The place [``count``] of each token, given the token [N] in each place; N for tokens without one."""
    filled = (source < count).nonzero().squeeze(1)
    return filled.new_full((count,), len(source)).index_put((source[filled],), filled)


def laid_out(
    states: Tensor, batches: Sequence[Sequence[int]], source: Tensor, place: Tensor, *, fused: bool = False
) -> list[Tensor]:
    """States [1, h, n, d] as batches [b, h, w, d] with b and w of ``batches``; ``fused`` as in :func:`moved`.

    Shapes: source: [Σ b · w], the token in each place, n for none; place: [n], the place of each token.
    """
    _, heads, _, size = states.shape
    rows = moved(states[0].transpose(0, 1).flatten(1), source, place, fused=fused)
    parts = torch.split(rows, [count * width for count, width in batches])
    return [part.view(*batch, heads, size).transpose(1, 2) for part, batch in zip(parts, batches, strict=True)]


def put_back(parts: list[Tensor], source: Tensor, place: Tensor, *, fused: bool = False) -> Tensor:
    """Outputs [b, w, h, d] of all batches as [1, n, h, d]; the rest as in :func:`laid_out`."""
    heads, size = parts[0].shape[2:]
    rows = torch.cat([part.reshape(-1, heads * size) for part in parts])
    return moved(rows, place, source, fused=fused).view(1, -1, heads, size)


def moved(rows: Tensor, index: Tensor, back: Tensor, *, fused: bool = False) -> Tensor:
    """Rows by index, none of them twice, so that gradients are moved back and nothing has to be summed; an index behind
    the last row stands for zeros.

    Shapes:
        rows: [n, e]; index: [m]; back: [n], the index that moves gradients back: where each row went, m for one that
        went nowhere. Result: [m, e].

    Args:
        fused: with operations that ``torch.compile`` computes beside others in one pass. Without it every row goes
            somewhere, so that there are zeros only where m > n.
    """
    found: Tensor = _Moved.apply(rows, index, back, fused)  # type: ignore[no-untyped-call]  # torch's own has no types
    return found


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, back: Tensor, fused: bool) -> Tensor:
        ctx.save_for_backward(back)
        ctx.fused = fused
        return _taken(rows, index, fused)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return _taken(gradients[0], back, ctx.fused), None, None, None


def _taken(rows: Tensor, index: Tensor, fused: bool) -> Tensor:
    if fused:
        there = index < len(rows)
        return torch.where(there.unsqueeze(1), rows[torch.where(there, index, 0)], 0.0)
    if len(index) > len(rows):
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    return rows.index_select(0, index)
