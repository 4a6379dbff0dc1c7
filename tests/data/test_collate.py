from __future__ import annotations

import torch

from rlhf_lightning.data import collate_comparisons, collate_prompts, collate_tokens, pairs_from_ranks


def test_tokens_are_padded_right_and_labels_are_the_response() -> None:
    batch = collate_tokens(
        [{"input_ids": [1, 6, 7, 2], "prompt_length": 2}, {"input_ids": [1, 8, 2], "prompt_length": 2}],
        pad_id=0,
    )
    assert batch.input_ids.tolist() == [[1, 6, 7, 2], [1, 8, 2, 0]]
    assert batch.input_ids.dtype == torch.long
    assert batch.lengths.tolist() == [4, 3]
    assert batch.loss_mask.tolist() == [[False, False, True, True], [False, False, True, False]]


def test_eos_stays_a_label_where_eos_is_the_padding() -> None:
    batch = collate_tokens(
        [{"input_ids": [6, 7, 2], "prompt_length": 1}, {"input_ids": [6, 2], "prompt_length": 1}], pad_id=2
    )
    assert batch.input_ids.tolist() == [[6, 7, 2], [6, 2, 2]]
    assert batch.loss_mask.tolist() == [[False, True, True], [False, True, False]]


def test_first_token_is_never_a_label() -> None:
    batch = collate_tokens([{"input_ids": [6, 2], "prompt_length": 0}], pad_id=0)
    assert batch.loss_mask.tolist() == [[False, True]]


def test_comparisons_hold_every_completion_once_and_pairs_by_index() -> None:
    rows = [
        {"prompt_ids": [1, 6], "response_ids": [[7, 2], [8, 8, 2], [2]], "pairs": [[0, 1], [0, 2]]},
        {"prompt_ids": [1], "response_ids": [[9, 2], [7]], "pairs": [[1, 0]]},
    ]
    batch = collate_comparisons(rows, pad_id=0)
    assert batch.input_ids.tolist() == [
        [1, 6, 7, 2, 0],
        [1, 6, 8, 8, 2],
        [1, 6, 2, 0, 0],
        [1, 9, 2, 0, 0],
        [1, 7, 0, 0, 0],
    ]
    assert batch.lengths.tolist() == [4, 5, 3, 3, 2]
    assert batch.group.tolist() == [0, 0, 0, 1, 1]
    assert batch.better.tolist() == [0, 0, 4]
    assert batch.worse.tolist() == [1, 2, 3]
    assert batch.pair_group.tolist() == [0, 0, 1]


def test_prompts_keep_their_text() -> None:
    batch = collate_prompts([{"input_ids": [1, 6, 7], "prompt": "a b"}, {"input_ids": [1], "prompt": ""}], pad_id=2)
    assert batch.input_ids.tolist() == [[1, 6, 7], [1, 2, 2]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.prompts == ["a b", ""]


def test_ranks_give_every_decided_pair_and_ties_none() -> None:
    assert pairs_from_ranks([2, 1, 3]) == [(0, 2), (1, 0), (1, 2)]
    assert pairs_from_ranks([1, 2, 2]) == [(0, 1), (0, 2)]
    assert pairs_from_ranks([1, 1]) == []
    assert len(pairs_from_ranks(range(9))) == 36  # K = 9: K(K-1)/2


def test_spans_say_which_turns_are_labels() -> None:
    rows = [
        {"input_ids": [1, 6, 7, 2, 8, 9, 2], "prompt_length": 2, "spans": [2, 4, 5, 7]},
        {"input_ids": [6, 2], "prompt_length": 0, "spans": [0, 2]},
    ]
    mask = collate_tokens(rows, pad_id=0).loss_mask.int().tolist()
    assert mask == [[0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0]]


def test_prompts_that_are_conversations_stay_conversations() -> None:
    turns = [{"role": "user", "content": "a"}]
    rows = [{"input_ids": [1], "prompt": "", "messages": turns}, {"input_ids": [1], "prompt": "b", "messages": []}]
    assert collate_prompts(rows, pad_id=0).prompts == [turns, "b"]
