"""Batches: right-padded ids with their lengths and masks carried beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlhf_lightning.data.dialogues import Prompt


class TokenBatch(NamedTuple):
    """Sequences with labels, for SFT and for pretraining text (b sequences, s tokens)."""

    input_ids: Tensor
    """[b, s] long, right padded."""
    lengths: Tensor
    """[b] long, real tokens of each sequence."""
    loss_mask: Tensor
    """[b, s] bool, True where the token at this position is a label: response tokens with EOS, or, in text, all
    tokens but the first."""


class ComparisonBatch(NamedTuple):
    """Ranked completions of b prompts (n completions, s tokens, m pairs)."""

    input_ids: Tensor
    """[n, s] long, every completion once: prompt + response (+ EOS), right padded."""
    lengths: Tensor
    """[n] long."""
    group: Tensor
    """[n] long, the prompt (0 to b-1) that a completion belongs to; groups are contiguous."""
    better: Tensor
    """[m] long, index into n of the preferred completion of each pair."""
    worse: Tensor
    """[m] long, index into n of the other one."""
    pair_group: Tensor
    """[m] long, the prompt of the pair."""


class PromptBatch(NamedTuple):
    """Prompts to sample from (b prompts, p tokens)."""

    input_ids: Tensor
    """[b, p] long, right padded."""
    lengths: Tensor
    """[b] long."""
    prompts: list[Prompt]
    """The prompts as text or as conversations, for rewards and tables."""
    ahead: PromptBatch | None = None
    """The batch that comes next, for modules that sample ahead; None at the end of an epoch."""


def collate_tokens(rows: Sequence[Mapping[str, Any]], *, pad_id: int) -> TokenBatch:
    """Pad rows of ``input_ids`` (ids) and ``prompt_length`` (leading tokens that are no labels).

    Rows with ``spans`` (start, end, start, end, ...) have labels there alone: several turns of a conversation. The
    first token of a sequence is never a label, because nothing stands before it to predict it from.
    """
    input_ids, lengths = _pad([row["input_ids"] for row in rows], pad_id)
    starts = torch.tensor([max(int(row["prompt_length"]), 1) for row in rows])
    positions = torch.arange(input_ids.shape[1])
    loss_mask = (positions >= starts[:, None]) & (positions < lengths[:, None])
    for mask, row in zip(loss_mask, rows, strict=True):
        if row.get("spans"):
            learned = torch.zeros_like(mask)
            for start, end in zip(row["spans"][::2], row["spans"][1::2], strict=True):
                learned[start:end] = True
            mask &= learned
    return TokenBatch(input_ids, lengths, loss_mask)


def collate_comparisons(rows: Sequence[Mapping[str, Any]], *, pad_id: int) -> ComparisonBatch:
    """Pad rows of ``prompt_ids``, ``response_ids`` (one list per completion) and ``pairs`` (better, worse)."""
    sequences: list[list[int]] = []
    group: list[int] = []
    better: list[int] = []
    worse: list[int] = []
    pair_group: list[int] = []
    for index, row in enumerate(rows):
        first = len(sequences)
        sequences += [[*row["prompt_ids"], *response] for response in row["response_ids"]]
        group += [index] * len(row["response_ids"])
        better += [first + pair[0] for pair in row["pairs"]]
        worse += [first + pair[1] for pair in row["pairs"]]
        pair_group += [index] * len(row["pairs"])
    input_ids, lengths = _pad(sequences, pad_id)
    return ComparisonBatch(
        input_ids=input_ids,
        lengths=lengths,
        group=torch.tensor(group, dtype=torch.long),
        better=torch.tensor(better, dtype=torch.long),
        worse=torch.tensor(worse, dtype=torch.long),
        pair_group=torch.tensor(pair_group, dtype=torch.long),
    )


def collate_prompts(rows: Sequence[Mapping[str, Any]], *, pad_id: int) -> PromptBatch:
    """Pad rows of ``input_ids`` and ``prompt`` (text), or ``messages`` where the prompt is a conversation."""
    input_ids, lengths = _pad([row["input_ids"] for row in rows], pad_id)
    return PromptBatch(input_ids, lengths, [row.get("messages") or row["prompt"] for row in rows])


def pairs_from_ranks(ranks: Sequence[float]) -> list[tuple[int, int]]:
    """Every (better, worse) pair of indices that the ranks decide; 1 is best and ties give no pair.

    K distinct ranks give all K(K-1)/2 comparisons (Ouyang et al. 2022, section 3.5).
    """
    indices = range(len(ranks))
    return [(i, j) for i in indices for j in indices if ranks[i] < ranks[j]]


def _pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    lengths = [len(sequence) for sequence in sequences]
    input_ids = np.full((len(sequences), max(lengths)), pad_id, dtype=np.int64)
    for row, sequence in zip(input_ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(input_ids), torch.tensor(lengths, dtype=torch.long)
