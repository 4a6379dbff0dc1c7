from __future__ import annotations

from typing import Any

import pytest

from rlhf_lightning.data import read_comparison
from rlhf_lightning.errors import UserError


def fails(row: dict[str, Any], *parts: str) -> None:
    with pytest.raises(UserError) as error:
        read_comparison({"prompt": "p", **row}, "f.jsonl, row 7")
    message = str(error.value)
    assert message.startswith("f.jsonl, row 7: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_ranks_give_pairs_and_ties_are_counted() -> None:
    comparison = read_comparison({"responses": ["a", "b", "c", "d"], "ranks": [2, 1, 2, 3]}, "")
    assert comparison.responses == ["a", "b", "c", "d"]
    assert comparison.pairs == [(0, 3), (1, 0), (1, 2), (1, 3), (2, 3)]
    assert comparison.tied == 1
    assert comparison.finished == [True] * 4


def test_chosen_and_rejected_are_one_pair() -> None:
    comparison = read_comparison({"chosen": "a", "rejected": "b", "finished": [True, False]}, "")
    assert comparison.responses == ["a", "b"]
    assert comparison.pairs == [(0, 1)]
    assert comparison.finished == [True, False]


def test_given_pairs_are_kept_as_they_are() -> None:
    star = [[2, 0], [2, 1]]
    comparison = read_comparison({"responses": ["a", "b", "c"], "pairs": star}, "")
    assert comparison.pairs == [(2, 0), (2, 1)]
    assert comparison.tied == 0  # an order that is not given is unknown, not a tie


def test_absent_columns_may_be_null_as_in_a_file_of_mixed_rows() -> None:
    row = {"responses": ["a", "b"], "ranks": [1, 2], "pairs": None, "finished": None, "chosen": None}
    assert read_comparison(row, "").pairs == [(0, 1)]


def test_empty_completion_is_a_fault_but_of_samples() -> None:
    fails({"responses": ["b", " "], "ranks": [2, 1]}, "completion 2 of 2 is empty")
    fails({"chosen": "", "rejected": "b"}, "completion 1 of 2 is empty")
    sampled = {"responses": ["", "b"], "ranks": [2, 1], "finished": [True, True]}
    assert read_comparison(sampled, "").pairs == [(1, 0)]


def test_one_completion_cannot_be_compared() -> None:
    fails({"responses": ["a"], "ranks": [1]}, "K = 1", "at least 2")
    fails({"responses": [], "ranks": []}, "K = 0")


def test_missing_or_contradicting_fields() -> None:
    fails({"output": "a"}, "no completions; the fields are prompt, output", "chosen and rejected")
    fails({"chosen": "a"}, "must be text")
    fails({"chosen": "a", "rejected": None}, "must be text")
    fails({"responses": ["a", None], "ranks": [1, 2]}, "must be text")
    fails({"responses": "ab", "ranks": [1, 2]}, "must be text")
    fails({"responses": ["a", "b"]}, "neither ranks nor pairs")
    fails({"responses": ["a", "b"], "ranks": [1, 2], "pairs": [[0, 1]]}, "both ranks and pairs")


@pytest.mark.parametrize("ranks", [[1], [1, 2, 3], [1, None], [1, "2"], [1, float("nan")], [True, False], 5])
def test_ranks_must_be_one_number_per_response(ranks: Any) -> None:
    fails({"responses": ["a", "b"], "ranks": ranks}, "ranks must be 2 numbers")


@pytest.mark.parametrize("pairs", [[[0, 2]], [[0, 0]], [[-1, 0]], [[0]], [[0, 1, 1]], [0], [[0, None]], 5])
def test_pairs_must_be_two_different_indices(pairs: Any) -> None:
    fails({"responses": ["a", "b"], "pairs": pairs}, "two different indices", "from 0 to 1")


@pytest.mark.parametrize("finished", [[True], [True, None], "yes"])
def test_finished_must_be_one_boolean_per_response(finished: Any) -> None:
    fails({"responses": ["a", "b"], "ranks": [1, 2], "finished": finished}, "finished must be 2 booleans")


def test_higher_scores_are_better_and_equal_ones_tie() -> None:
    comparison = read_comparison({"responses": ["a", "b", "c"], "scores": [0.5, 2, 0.5]}, "")
    assert comparison.pairs == [(1, 0), (1, 2)]
    assert comparison.tied == 1
    assert read_comparison({"responses": ["a", "b"], "scores": ["3", "4.5"]}, "").pairs == [(1, 0)]


@pytest.mark.parametrize("scores", [[1], [1, None], [1, "good"], [1, float("nan")], 5, "12"])
def test_scores_must_be_one_number_per_response(scores: Any) -> None:
    fails({"responses": ["a", "b"], "scores": scores}, "scores must be 2 numbers")


def test_preference_is_the_number_of_the_better_output() -> None:
    outputs = {"output_1": "a", "output_2": "b"}
    assert read_comparison({**outputs, "preference": 2}, "").pairs == [(1, 0)]
    assert read_comparison({**outputs, "preference": "1"}, "").pairs == [(0, 1)]
    for even in (0, 1.5):
        comparison = read_comparison({**outputs, "preference": even}, "")
        assert (comparison.pairs, comparison.tied) == ([], 1)
    assert read_comparison({"responses": ["a", "b", "c"], "preference": 3}, "").pairs == [(2, 0), (2, 1)]


@pytest.mark.parametrize("preference", [3, -1, 1.2, "left", [1, 3], True + 2])
def test_preference_must_be_the_number_of_an_output(preference: Any) -> None:
    fails({"output_1": "a", "output_2": "b", "preference": preference}, "preference must be the number", "from 1 to 2")


def test_choice_is_the_index_of_the_best() -> None:
    assert read_comparison({"responses": ["a", "b"], "choice": 1}, "").pairs == [(1, 0)]
    fails({"responses": ["a", "b"], "choice": 2}, "choice must be the index", "from 0 to 1")


def test_annotators_are_kept_apart_or_outvoted() -> None:
    row = {"responses": ["a", "b"], "preference": [1, 2, 2, 1.5]}
    each, majority = (read_comparison(row, "", annotators=choice) for choice in ("each", "majority"))
    assert (each.pairs, each.tied) == ([(0, 1), (1, 0), (1, 0)], 1)
    assert (majority.pairs, majority.tied) == ([(1, 0)], 0)
    even = read_comparison({"responses": ["a", "b"], "preference": [1, 2, 1.5]}, "", annotators="majority")
    assert (even.pairs, even.tied) == ([], 1)
    best = read_comparison({"responses": ["a", "b", "c"], "choice": [0, 0, 1]}, "", annotators="majority")
    assert sorted(best.pairs) == [(0, 1), (0, 2), (1, 2)]


def test_star_needs_one_preference_per_response() -> None:
    star = {"baseline": "a", "responses": ["b", "c"], "preferences": [2, 1]}
    comparison = read_comparison(star, "")
    assert comparison.responses == ["a", "b", "c"]
    assert comparison.pairs == [(1, 0), (0, 2)]
    fails({**star, "preferences": [2]}, "preferences must be 2 numbers")


@pytest.mark.parametrize("field", ["preference", "choice"])
def test_an_infinite_vote_is_no_vote(field: str) -> None:
    with pytest.raises(UserError, match=rf"f\.jsonl, line 7: {field} must be the .* of the best response .*inf"):
        read_comparison({"prompt": "p", "responses": ["a", "b"], field: "inf"}, "f.jsonl, line 7")
