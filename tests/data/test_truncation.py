from __future__ import annotations

from rlhf_lightning.data.truncation import cut_answers, cut_prompt, cut_turns

BOS = 1


def test_prompt_keeps_its_first_or_last_tokens() -> None:
    ids = [BOS, 5, 6, 7, 8]
    assert cut_prompt(ids, limit=3, overlong="keep_start", bos=BOS) == [BOS, 5, 6]
    assert cut_prompt(ids, limit=3, overlong="keep_end", bos=BOS) == [BOS, 7, 8]
    assert cut_prompt(ids[1:], limit=3, overlong="keep_end", bos=BOS) == [6, 7, 8]
    assert cut_prompt(ids, limit=1, overlong="keep_end", bos=BOS) == [8]
    assert cut_prompt(ids, limit=5, overlong="keep_end", bos=BOS) == ids


def test_keep_start_cuts_the_ends_of_responses() -> None:
    kept = cut_answers([BOS, 5], [[6, 7, 2], [8, 2]], limit=4, overlong="keep_start", bos=BOS)
    assert kept == ([BOS, 5], [[6, 7], [8, 2]])
    assert cut_answers([BOS, 5], [[6, 2]], limit=2, overlong="keep_start", bos=BOS) is None


def test_keep_end_cuts_the_start_of_the_prompt() -> None:
    kept = cut_answers([BOS, 5, 6, 7], [[8, 9, 2], [8, 2]], limit=5, overlong="keep_end", bos=BOS)
    assert kept == ([BOS, 7], [[8, 9, 2], [8, 2]])
    assert cut_answers([BOS, 5], [[6, 7, 2]], limit=3, overlong="keep_end", bos=BOS) is None


def test_turns_are_cut_with_what_is_learned_of_them() -> None:
    ids = [BOS, 5, 6, 2, 7, 8, 9, 2]  # learned: 6 2 and 8 9 2
    spans = [(2, 4), (5, 8)]
    assert cut_turns(ids, spans, limit=7, overlong="keep_start", bos=BOS) == (ids[:7], [(2, 4), (5, 7)])
    assert cut_turns(ids, spans, limit=5, overlong="keep_start", bos=BOS) == (ids[:5], [(2, 4)])
    assert cut_turns(ids, spans, limit=2, overlong="keep_start", bos=BOS) is None
    assert cut_turns(ids, spans, limit=7, overlong="keep_end", bos=BOS) == ([BOS, *ids[2:]], [(1, 3), (4, 7)])
    assert cut_turns(ids, spans, limit=6, overlong="keep_end", bos=BOS) == ([BOS, *ids[3:]], [(1, 2), (3, 6)])
    assert cut_turns(ids, spans, limit=4, overlong="keep_end", bos=BOS) == ([BOS, 8, 9, 2], [(1, 4)])
    assert cut_turns(ids, spans, limit=3, overlong="keep_end", bos=BOS) is None
