"""Cutting a batch into micro-batches without padding beyond their own longest row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from rlhf_lightning.data import ComparisonBatch, PackedBatch, TokenBatch

Sequences = TypeVar("Sequences", bound=TokenBatch | PackedBatch)


def micro_batches(lengths: Tensor, size: int | None) -> list[Tensor]:
    """Row indices of micro-batches of at most ``size`` sequences, neighbours in length together.

    Shapes:
        lengths: [b]. Result: index tensors that cover 0..b−1 once.
    """
    order = torch.argsort(lengths, stable=True)
    return list(torch.split(order, size or len(order)))


def token_rows(batch: Sequences, rows: Tensor) -> Sequences:
    """The given rows, trimmed to the longest of them."""
    width = int(batch.lengths[rows].max())
    parts = {name: value[rows] for name, value in batch._asdict().items()}
    return type(batch)(**{name: part[:, :width] if part.ndim == 2 else part for name, part in parts.items()})


def by_length(score: Callable[[Tensor, Tensor], Tensor], input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Score right-padded rows, the shorter half apart from the longer one where that saves much padding.

    Shapes:
        input_ids: [n, s]; lengths: [n]. Result: [n], in the order of the rows.
    """
    halves = micro_batches(lengths, -(-len(lengths) // 2))
    widths = [int(lengths[half].max()) for half in halves]
    if widths[0] > _WORTH_A_PASS * widths[-1]:
        return score(input_ids, lengths)
    scores = [score(input_ids[half, :width], lengths[half]) for half, width in zip(halves, widths, strict=True)]
    return torch.cat(scores)[torch.argsort(torch.cat(halves))]


# Two passes over half of the rows cost more than one over all of them: a tenth of the tokens must be saved.
_WORTH_A_PASS = 0.8


def pairs_per_prompt(batch: ComparisonBatch) -> Tensor:
    """Number of pairs [b] of each prompt of the batch."""
    return torch.bincount(batch.pair_group, minlength=int(batch.group.max()) + 1)


def longest_per_prompt(batch: ComparisonBatch) -> Tensor:
    """Length [b] of the longest completion of each prompt."""
    longest = batch.lengths.new_zeros(int(batch.group.max()) + 1)
    return longest.scatter_reduce(0, batch.group, batch.lengths, "amax")


def comparison_rows(batch: ComparisonBatch, prompts: Tensor) -> ComparisonBatch:
    """The given prompts with all their completions and pairs, renumbered and trimmed."""
    new_prompt = batch.group.new_full((int(batch.group.max()) + 1,), -1)
    new_prompt[prompts] = torch.arange(len(prompts), device=prompts.device)
    completions = (new_prompt[batch.group] >= 0).nonzero().squeeze(1)
    new_completion = batch.group.new_full((len(batch.group),), -1)
    new_completion[completions] = torch.arange(len(completions), device=completions.device)
    pairs = new_prompt[batch.pair_group] >= 0
    lengths = batch.lengths[completions]
    return ComparisonBatch(
        input_ids=batch.input_ids[completions, : int(lengths.max())],
        lengths=lengths,
        group=new_prompt[batch.group[completions]],
        better=new_completion[batch.better[pairs]],
        worse=new_completion[batch.worse[pairs]],
        pair_group=new_prompt[batch.pair_group[pairs]],
    )
