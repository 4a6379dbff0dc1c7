"""Which sequences share a padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PASS = 512
"""Tokens that take as long as a pass does beside its tokens: between what was seen in float32 (about 400) and in
bfloat16 (about 1,000) with small models on two cores."""


def group_sizes(
    lengths: Sequence[int],
    *,
    rows: int | None = None,
    tokens: int | None = None,
    sequences: Sequence[int] | None = None,
    few: bool = False,
) -> list[int]:
    """Sizes of groups of neighbours that cost least, a group ``G`` costing ``max_{i ∈ G} l_i · Σ_{i ∈ G} n_i + PASS``:
    its tokens, padding included, and what a pass costs beside them. Of ways that cost the same, the one whose last
    groups are the largest.

    Args:
        lengths: [b], l_i, ascending.
        rows: most rows of a group; ``None``: no limit.
        tokens: most tokens of a group, padding included; ``None``: no limit. A row of more is a group by itself.
        sequences: [b], n_i; one each by default.
        few: as few groups as the limits admit, whatever the padding, and of those the cheapest.

    Returns:
        Numbers of rows that add up to b.
    """
    count = len(lengths)
    longest = torch.tensor(lengths, dtype=torch.float64)
    upto = torch.tensor([0, *(sequences or [1] * count)], dtype=torch.float64).cumsum(0)
    # A group more is dearer than all padding that there can be.
    each = float(longest[-1] * upto[-1]) + 1 if few and count else float(PASS)
    least, begins = torch.zeros(count + 1, dtype=torch.float64), [0] * (count + 1)
    for end in range(1, count + 1):
        first = 0 if rows is None else max(end - rows, 0)
        padded = longest[end - 1] * (upto[end] - upto[first:end])
        cost = least[first:end] + padded + each
        if tokens is not None:
            cost[:-1] = cost[:-1].masked_fill(padded[:-1] > tokens, float("inf"))
        best = int(cost.argmin())
        least[end], begins[end] = cost[best], first + best
    groups, end = [], count
    while end:
        groups.append(end - begins[end])
        end = begins[end]
    return groups[::-1]


def groups_of_like_length(
    lengths: Tensor,
    *,
    rows: int | None = None,
    tokens: int | None = None,
    sequences: Tensor | None = None,
    few: bool = False,
) -> list[Tensor]:
    """The rows of the groups of :func:`group_sizes`, shortest first.

    The indices are on the CPU, where the shapes of what follows are decided: a GPU is asked at most once, here.

    Args:
        lengths, sequences: [b], in any order.
        rows, tokens: as in :func:`group_sizes`.
        few: rather pad than make one more group.

    Returns:
        Index tensors that cover 0..b−1 once.
    """
    lengths = lengths.cpu()
    order = torch.argsort(lengths, stable=True)
    sizes = group_sizes(
        lengths[order].tolist(),
        rows=rows,
        tokens=tokens,
        sequences=None if sequences is None else sequences.cpu()[order].tolist(),
        few=few,
    )
    return list(torch.split(order, sizes))
