"""Groups by hand, and the least cost against all ways to cut."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from rlhf_lightning.functional import group_sizes, groups_of_like_length
from rlhf_lightning.functional.grouping import PASS


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([10] * 5, [5]),
        ([300, 300, 310], [3]),  # 20 tokens of padding are no pass
        ([100, 600], [2]),  # 500 are less than one
        ([100, 613], [1, 1]),  # 513 are more than one
        ([100, 100, 400], [2, 1]),  # two rows padded by 300
        ([1000, 1000, 1150], [3]),
        ([1000, 1000, 1320], [2, 1]),
    ],
)
def test_rows_are_parted_where_padding_costs_more_than_a_pass(lengths: list[int], groups: list[int]) -> None:
    assert PASS == 512
    assert group_sizes(lengths) == groups
    assert group_sizes(lengths, few=True) == ([len(lengths)] if lengths else [])


@pytest.mark.parametrize(
    ("rows", "tokens", "groups"),
    [
        (None, 12, [2, 2, 1, 1]),  # 2·2 + 2·5 + 9 + 10 tokens, as many as 3·3 + 5 + 9 + 10
        (None, 20, [4, 2]),  # 4 rows of 5; 2 rows of 10
        (2, 20, [2, 2, 2]),
        (2, None, [2, 2, 2]),
        (4, None, [3, 3]),  # 3·3 + 3·10 tokens; 4·5 + 2·10 would be one more
        (None, 1, [1] * 6),  # each of them too long, and alone
        (None, 1000, [6]),
    ],
)
@pytest.mark.parametrize("few", [False, True])
def test_limits_are_kept(rows: int | None, tokens: int | None, groups: list[int], few: bool) -> None:
    assert group_sizes([1, 2, 3, 5, 9, 10], rows=rows, tokens=tokens, few=few) == groups


def test_a_row_that_stands_for_several_sequences_counts_as_many() -> None:
    assert group_sizes([4, 4, 5], tokens=20, sequences=[3, 2, 1]) == [2, 1]  # 5 of 4 tokens; 6 of 5 would be 30
    assert group_sizes([4, 4, 5], tokens=30, sequences=[3, 2, 1]) == [3]
    # Seven sequences padded by 70 tokens are 490, by 80 they are 560.
    assert group_sizes([30, 100], sequences=[7, 1]) == [2]
    assert group_sizes([20, 100], sequences=[7, 1]) == [1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_no_way_to_cut_costs_less(seed: int) -> None:
    draw = random.Random(seed)
    lengths = sorted(draw.randrange(1, 900) for _ in range(8))
    sequences = [draw.randrange(1, 4) for _ in lengths]
    rows, tokens = draw.choice([None, 3, 5]), draw.choice([None, 1500])

    def cost(sizes: list[int]) -> float:
        ends = list(itertools.accumulate(sizes, initial=0))
        found = 0.0
        for start, end in itertools.pairwise(ends):
            padded = lengths[end - 1] * sum(sequences[start:end])
            if (rows and end - start > rows) or (tokens and padded > tokens and end - start > 1):
                return math.inf
            found += padded + PASS
        return found

    cuts = [[index for index in range(1, 8) if bits >> (index - 1) & 1] for bits in range(2**7)]
    ways = [[end - start for start, end in itertools.pairwise([0, *cut, 8])] for cut in cuts]
    assert cost(group_sizes(lengths, rows=rows, tokens=tokens, sequences=sequences)) == min(map(cost, ways))


def test_rows_are_named_in_the_order_in_which_they_came() -> None:
    groups = groups_of_like_length(torch.tensor([900, 20, 880, 10]))
    assert [group.tolist() for group in groups] == [[3, 1], [2, 0]]
