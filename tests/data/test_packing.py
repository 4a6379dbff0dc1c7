from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data import collate_packs, fill_packs
from rlhf_lightning.errors import UserError


def test_examples_go_longest_first_into_the_first_pack_with_room() -> None:
    assert fill_packs([9, 7, 5, 12, 3, 1, 8, 2], size=20) == [[3, 6], [0, 1, 4, 5], [2, 7]]
    assert fill_packs([4, 4, 4], size=8) == [[0, 1], [2]]
    assert fill_packs([3, 3, 3], size=3) == [[0], [1], [2]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 64))
def test_every_example_is_in_one_pack_and_few_packs_are_made(lengths: list[int], size: int) -> None:
    packs = fill_packs(lengths, size=size)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    sizes = [sum(lengths[index] for index in pack) for pack in packs]
    assert max(sizes) <= size
    # No two packs would fit into one, so all but one are more than half full.
    assert sum(total <= size / 2 for total in sizes) <= 1


def test_ids_labels_and_positions_of_a_pack() -> None:
    rows = [
        {"input_ids": [1, 10, 11], "prompt_length": 1},
        {"input_ids": [2, 20, 21, 22], "prompt_length": 2},
        {"input_ids": [3, 30], "prompt_length": 0},
    ]
    batch = collate_packs(rows, pad_id=99, size=6)
    assert batch.input_ids.tolist() == [[2, 20, 21, 22, 3, 30], [1, 10, 11, 99, 99, 99]]
    assert batch.lengths.tolist() == [6, 3]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [
        [False, False, True, True, False, True],  # the first token of an example is no label, wherever it stands
        [False, True, True, False, False, False],
    ]


def test_several_learned_turns_of_a_conversation_stay_labels() -> None:
    rows = [
        {"input_ids": [1, 10, 11, 12, 13], "prompt_length": 1, "spans": [1, 2, 3, 5]},
        {"input_ids": [2, 20, 21], "prompt_length": 2, "spans": [2, 3]},
    ]
    batch = collate_packs(rows, pad_id=0, size=8)
    assert batch.loss_mask.tolist() == [[False, True, False, True, True, False, False, True]]


def test_rows_are_as_wide_as_their_longest_pack() -> None:
    batch = collate_packs([{"input_ids": [1, 2, 3], "prompt_length": 1}] * 2, pad_id=0, size=512)
    assert batch.input_ids.shape == (1, 6)


def test_labels_are_as_many_as_without_packing() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(2, 100) for _ in range(64)]
    rows = [{"input_ids": [7] * length, "prompt_length": length // 2} for length in lengths]
    batch = collate_packs(rows, pad_id=0, size=128)
    assert int(batch.loss_mask.sum()) == sum(length - length // 2 for length in lengths)
    assert int(batch.lengths.sum()) == sum(lengths)


def test_an_example_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(UserError, match=r"an example of 7 tokens does not fit a pack of 6: raise data\.packing"):
        fill_packs([3, 7], size=6)
