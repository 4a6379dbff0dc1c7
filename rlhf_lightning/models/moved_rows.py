"""Rows by index, none of them twice, so that gradients are moved back and nothing has to be summed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def moved(rows: Tensor, index: Tensor, back: Tensor, *, fused: bool = False) -> Tensor:
    """Rows by index; an index behind the last row stands for zeros.

    Shapes:
        rows: [n, e]; index: [m], in which no row stands twice; back: [n], the index that moves gradients back: where
        each row went, m for one that went nowhere. Result: [m, e].

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
