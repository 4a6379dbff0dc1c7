"""Which sequences share a padded batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = 1.1
"""Tokens of a group, padding included, for each real one: beyond it a longer sequence begins a new group."""
SMALL = 512
"""Tokens up to which padding is not worth a pass of its own."""


def group_sizes(
    lengths: Sequence[int],
    *,
    rows: int | None = None,
    tokens: int | None = None,
    sequences: Sequence[int] | None = None,
    padding: float = PADDING,
) -> list[int]:
    """Sizes of groups of neighbours, each as large as the limits admit and with little padding.

    A group of rows with n_i sequences of at most l_i tokens takes ``Σ n_i · max l_i`` tokens, of which
    ``Σ n_i l_i`` are real. It takes no further row that would make the first number more than ``padding`` times the
    second, unless it is ``SMALL`` tokens in all.

    Args:
        lengths: [b], l_i, ascending.
        rows: most rows of a group; ``None``: no limit.
        tokens: most tokens of a group, padding included; ``None``: no limit. A row of more is a group by itself.
        sequences: [b], n_i; one each by default.
        padding: infinite for as few groups as the limits admit.

    Returns:
        Numbers of rows that add up to b.
    """
    groups, size, count, real = [], 0, 0, 0
    for length, number in zip(lengths, sequences or [1] * len(lengths), strict=True):
        padded = (count + number) * length
        wasteful = padded > SMALL and padded > padding * (real + number * length)
        if size and (size == rows or wasteful or (tokens is not None and padded > tokens)):
            groups.append(size)
            size, count, real = 0, 0, 0
        size, count, real = size + 1, count + number, real + number * length
    return [*groups, size] if size else groups


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
        padding=math.inf if few else PADDING,
    )
    return list(torch.split(order, sizes))
