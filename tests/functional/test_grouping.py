"""Groups by hand: what fits, and where padding is worth a pass of its own."""

from __future__ import annotations

import math

import pytest

from rlhf_lightning.functional import group_sizes


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([10] * 5, [5]),
        ([300, 300, 310], [3]),  # 930 tokens for 910
        ([100, 200, 250], [2, 1]),  # 400 for 300 is much padding, yet of a small pass; 750 for 550 is not small
        ([100, 300, 310], [1, 2]),  # 600 for 400; 620 for 610
        ([1000, 1000, 1320], [2, 1]),  # 3960 for 3320, 1.19 times
        ([1000, 1000, 1150], [3]),  # 3450 for 3150, 1.095 times
    ],
)
def test_a_longer_row_that_makes_much_padding_begins_a_group(lengths: list[int], groups: list[int]) -> None:
    assert group_sizes(lengths) == groups
    assert group_sizes(lengths, padding=math.inf) == ([len(lengths)] if lengths else [])


@pytest.mark.parametrize(
    ("rows", "tokens", "groups"),
    [
        (None, 12, [3, 1, 1, 1]),  # 3 rows of 3 tokens are 9, a fourth would make 4 of 5
        (None, 20, [4, 2]),  # 4 rows of 5; 2 rows of 10
        (2, 20, [2, 2, 2]),
        (2, None, [2, 2, 2]),
        (None, 1, [1] * 6),  # each of them too long, and alone
        (None, 1000, [6]),
    ],
)
def test_limits_are_kept(rows: int | None, tokens: int | None, groups: list[int]) -> None:
    assert group_sizes([1, 2, 3, 5, 9, 10], rows=rows, tokens=tokens) == groups


def test_a_row_that_stands_for_several_sequences_counts_as_many() -> None:
    assert group_sizes([4, 4, 5], tokens=20, sequences=[3, 2, 1]) == [2, 1]  # 5 of 4 tokens; 6 of 5 would be 30
    assert group_sizes([4, 4, 5], tokens=30, sequences=[3, 2, 1]) == [3]
    # 8 sequences of 100 tokens are 800 for 705; of one sequence each, 200 for 195 and small.
    assert group_sizes([95, 100], sequences=[7, 1]) == [2]
    assert group_sizes([85, 100], sequences=[7, 1]) == [1, 1]
