"""Cutting a batch into micro-batches without padding beyond their own longest row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from rlhf_lightning.data import ComparisonBatch, PackedBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import groups_of_like_length

Sequences = TypeVar("Sequences", bound=TokenBatch | PackedBatch)


def check_micro_batch(size: int | None, tokens: int | None) -> None:
    """The limits of a micro-batch.

    Raises:
        UserError: room for nothing.
    """
    for name, limit in (("micro_batch_size", size), ("micro_batch_tokens", tokens)):
        if limit is not None and limit < 1:
            raise UserError(f"module.{name}={limit} must be at least 1")


def micro_batches(
    lengths: Tensor,
    size: int | None,
    tokens: int | None = None,
    *,
    sequences: Tensor | None = None,
    few_passes: bool = False,
) -> list[Tensor]:
    """Row indices, on the CPU, of micro-batches of at most ``size`` rows and ``tokens`` tokens, padding included,
    neighbours in length together. Rows of such different length that much would be padding are micro-batches of their
    own, and so is a row of more than ``tokens`` (:func:`~rlhf_lightning.functional.groups_of_like_length`).

    Args:
        lengths: [b], of the longest sequence of each row.
        size, tokens: ``None`` for no limit.
        sequences: [b], how many sequences a row stands for; one each by default.
        few_passes: rather pad than make one more pass, such as where each of them gathers sharded weights.

    Returns:
        Index tensors that cover 0..b−1 once.
    """
    return groups_of_like_length(lengths, rows=size, tokens=tokens, sequences=sequences, few=few_passes)


def with_shapes_on_cpu(batch: Sequences) -> Sequences:
    """The batch with lengths and labels on the CPU: they decide the shapes of what is computed, for which a GPU would
    have to be waited for in every micro-batch."""
    here = {"lengths": batch.lengths.cpu(), "loss_mask": batch.loss_mask.cpu()}
    return type(batch)(**batch._asdict() | here)


def token_rows(batch: Sequences, rows: Tensor) -> Sequences:
    """The given rows, trimmed to the longest of them."""
    width = int(batch.lengths[rows].max())
    parts = {name: value[rows] for name, value in batch._asdict().items()}
    return type(batch)(**{name: part[:, :width] if part.ndim == 2 else part for name, part in parts.items()})


def by_length(score: Callable[[Tensor, Tensor], Tensor], input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Score right-padded rows, those of like length together where that saves much padding.

    Shapes:
        input_ids: [n, s]; lengths: [n]. Result: [n], in the order of the rows.
    """
    parts = micro_batches(lengths, None)
    scores = [score(input_ids[rows, : int(lengths[rows].max())], lengths[rows]) for rows in parts]
    return torch.cat(scores)[torch.argsort(torch.cat(parts))]


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
