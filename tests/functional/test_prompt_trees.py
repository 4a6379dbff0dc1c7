from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.functional import prompt_trees


def test_a_tree_by_hand() -> None:
    # Two prompts: (7 8) with three completions, (9) with two.
    rows = [[7, 8, 1], [7, 8, 2, 3], [9, 4], [7, 8, 2, 5], [9, 6]]
    lengths = torch.tensor([3, 4, 2, 4, 2])
    ids = torch.zeros(5, 4, dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    trees = prompt_trees(ids, lengths, torch.tensor([0, 0, 1, 0, 1]))
    # 2 + 1 + 2 + 2 = 7 tokens and 1 + 1 + 1 = 3, which is 10: two rows of at most 7.
    assert trees.input_ids.tolist() == [[7, 8, 1, 2, 3, 2, 5], [9, 4, 6, 0, 0, 0, 0]]
    assert trees.position_ids.tolist() == [[0, 1, 2, 2, 3, 2, 3], [0, 1, 1, 0, 0, 0, 0]]
    assert trees.row.tolist() == [0, 0, 1, 0, 1]
    assert trees.column.tolist() == [2, 4, 1, 6, 2]
    assert trees.sees[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert trees.sees[1, :3].int().tolist() == [[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0]]


def test_short_trees_share_a_row() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5], [6, 7, 0, 0], [8, 9, 0, 0]])
    trees = prompt_trees(ids, torch.tensor([4, 4, 2, 2]), torch.tensor([0, 0, 1, 2]))
    assert trees.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
    assert trees.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 1, 0, 1, 0]]
    assert trees.sees[1, 2].tolist() == [False, False, True, False, False]  # not what another prompt has


def test_numbers_of_prompts_may_have_gaps() -> None:
    ids = torch.tensor([[1, 2, 3], [1, 2, 4], [6, 7, 0], [6, 8, 0]])
    lengths = torch.tensor([3, 3, 2, 2])
    expected = prompt_trees(ids, lengths, torch.tensor([0, 0, 1, 1]))
    for mine, other in zip(prompt_trees(ids, lengths, torch.tensor([1, 1, 4, 4])), expected, strict=True):
        assert torch.equal(mine, other)


def test_identical_sequences_keep_a_last_token_each() -> None:
    ids = torch.tensor([[3, 4, 5], [3, 4, 5], [3, 4, 0]])
    trees = prompt_trees(ids, torch.tensor([3, 3, 2]), torch.tensor([0, 0, 0]))
    assert trees.input_ids.tolist() == [[3, 4, 5, 4, 5, 4]]
    assert trees.column.tolist() == [2, 4, 5]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=5), min_size=1, max_size=6
    ),
    st.randoms(use_true_random=False),
)
def test_every_sequence_can_be_read_off_the_tree(groups: list[list[list[int]]], random: object) -> None:
    flat = [(number, ids) for number, group in enumerate(groups) for ids in group]
    random.shuffle(flat)  # type: ignore[attr-defined]  # what st.randoms gives
    width = max(len(ids) for _, ids in flat)
    input_ids = torch.tensor([[*ids, *[9] * (width - len(ids))] for _, ids in flat])
    lengths = torch.tensor([len(ids) for _, ids in flat])
    trees = prompt_trees(input_ids, lengths, torch.tensor([number for number, _ in flat]))
    for (_, ids), row, column in zip(flat, trees.row.tolist(), trees.column.tolist(), strict=True):
        seen = trees.sees[row, column]
        assert trees.input_ids[row][seen].tolist() == ids
        assert trees.position_ids[row][seen].tolist() == list(range(len(ids)))
    assert trees.sees.diagonal(dim1=1, dim2=2).all()  # also padding sees itself: a softmax over nothing is NaN
