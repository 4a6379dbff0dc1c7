from __future__ import annotations

import pytest
import torch

from rlhf_lightning.data import ComparisonBatch, TokenBatch
from rlhf_lightning.modules.batching import (
    by_length,
    comparison_rows,
    longest_per_prompt,
    micro_batches,
    pairs_per_prompt,
    token_rows,
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9, None])
def test_micro_batches_cover_every_row_once_and_neighbours_in_length_together(size: int | None) -> None:
    lengths = torch.tensor([5, 1, 9, 3, 3, 8, 2])
    parts = micro_batches(lengths, size)
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    assert torch.cat([lengths[rows] for rows in parts]).tolist() == sorted(lengths.tolist())
    assert max(len(rows) for rows in parts) <= (size or 7)


def test_token_rows_are_trimmed_to_their_longest(tokens: TokenBatch) -> None:
    rows = torch.tensor([2, 0])
    part = token_rows(tokens, rows)
    assert part.input_ids.shape[1] == int(tokens.lengths[rows].max()) < tokens.input_ids.shape[1]
    for index, row in enumerate(rows.tolist()):
        length = int(tokens.lengths[row])
        assert torch.equal(part.input_ids[index, :length], tokens.input_ids[row, :length])
        assert part.loss_mask[index].sum() == tokens.loss_mask[row].sum()


@pytest.mark.parametrize(
    ("lengths", "widths"), [([900, 280, 300, 880], [300, 900]), ([90, 80, 90, 80], [90]), ([4], [4])]
)
def test_short_rows_are_scored_apart_from_long_ones(lengths: list[int], widths: list[int]) -> None:
    ids = torch.arange(4 * 900).view(4, 900)[: len(lengths)]
    seen = []

    def score(part: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape[1])
        return part[:, 0] + real * 10000

    scores = by_length(score, ids[:, : max(lengths)], torch.tensor(lengths))
    assert scores.tolist() == [900 * row + 10000 * length for row, length in enumerate(lengths)]
    assert seen == widths


def test_counts_of_each_prompt(comparisons: ComparisonBatch) -> None:
    assert pairs_per_prompt(comparisons).tolist() == [1, 3, 5, 0, 2, 1, 6, 2]
    expected = [int(comparisons.lengths[comparisons.group == prompt].max()) for prompt in range(8)]
    assert longest_per_prompt(comparisons).tolist() == expected


def test_comparison_rows_keep_prompts_whole(comparisons: ComparisonBatch) -> None:
    part = comparison_rows(comparisons, torch.tensor([6, 1]))
    assert part.group.tolist() == [1, 1, 1, 0, 0, 0, 0]  # prompt 6 is now 0
    assert part.input_ids.shape == (7, int(part.lengths.max()))

    def pairs(batch: ComparisonBatch, prompt: int) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
        rows = [tuple(ids[:n].tolist()) for ids, n in zip(batch.input_ids, batch.lengths, strict=True)]
        chosen = batch.pair_group == prompt
        return {(rows[b], rows[w]) for b, w in zip(batch.better[chosen], batch.worse[chosen], strict=True)}

    assert pairs(part, 0) == pairs(comparisons, 6)
    assert pairs(part, 1) == pairs(comparisons, 1)
    assert len(pairs(part, 0)) == 6
    assert pairs_per_prompt(part).tolist() == [6, 3]


def test_a_prompt_of_ties_alone_can_be_taken(comparisons: ComparisonBatch) -> None:
    part = comparison_rows(comparisons, torch.tensor([3]))
    assert part.better.numel() == 0
    assert pairs_per_prompt(part).tolist() == [0]
