from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import (
    ScoreJudge,
    calibration_table,
    evaluate_reward_model,
    pair_accuracy,
    pair_agreement,
)
from rlhf_lightning.evaluation.reward_model import agreement_counts


class LengthScorer:
    """Longer is better, and so is an end."""

    def __call__(self, prompts: Any, responses: list[str], finished: list[bool]) -> Tensor:
        self.finished = finished
        return torch.tensor([float(len(response)) for response in responses])


def count_letters(prompts: list[str], responses: list[str]) -> list[int]:
    return [response.count("a") for response in responses]


ROWS = [
    # Pairs: (0, 1) right, (0, 2) right, (1, 2) wrong by length.
    {"prompt": "p", "responses": ["aaaa", "b", "bb"], "ranks": [1, 2, 3], "finished": [True, False, True]},
    # One pair: wrong by length; and two ties.
    {"prompt": "q", "responses": ["a", "bbb"], "ranks": [1, 2], "finished": [True, True]},
    {"prompt": "r", "responses": ["a", "b"], "ranks": [1, 1], "finished": [True, True]},
]


def test_accuracy_counts_pairs_and_halves_equal_scores() -> None:
    scores = [[2.0, 1.0, 1.0], [0.0, 5.0]]
    pairs = [[(0, 1), (0, 2), (1, 2)], [(0, 1)]]
    # Right, right, equal; wrong.
    assert pair_accuracy(scores, pairs) == 2.5 / 4


def test_accuracy_without_a_pair_is_unknown() -> None:
    assert pair_accuracy([[1.0, 2.0]], [[]]) is None


def test_agreement_is_over_the_pairs_that_both_rank_strictly() -> None:
    first = [[(0, 1), (0, 2), (1, 2)], [(1, 0)]]
    # The same, the opposite, a tie; and no opinion of the first on a pair of the second's.
    second = [[(0, 1), (2, 0)], []]
    assert pair_agreement(first, second) == 0.5
    assert pair_agreement(first, [[], []]) is None
    assert agreement_counts(first, second) == [(1, 2), (0, 0)]


def test_calibration_by_hand() -> None:
    # Differences of better and worse: 3, −1, 0, 2. By size: 0, −1 | 2, 3.
    table = calibration_table([[3.0, 0.0], [1.0, 2.0], [1.0, 1.0], [5.0, 3.0]], [[(0, 1)]] * 4, bins=2)
    near, far = table
    assert (near["low"], near["high"], near["difference"], near["pairs"]) == (0.0, 1.0, 0.5, 2)
    assert near["observed"] == 0.25  # equal scores are half right, −1 is wrong
    assert near["predicted"] == pytest.approx((0.5 + 1 / (1 + math.exp(-1))) / 2)
    assert (far["low"], far["high"], far["observed"], far["pairs"]) == (2.0, 3.0, 1.0, 2)
    assert far["predicted"] == pytest.approx((1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-3))) / 2)


def test_calibration_of_few_pairs_has_no_empty_bin() -> None:
    assert len(calibration_table([[1.0, 0.0]], [[(0, 1)]], bins=10)) == 1
    assert calibration_table([[1.0]], [[]]) == []


def test_a_file_of_comparisons(write_jsonl: Callable[..., str]) -> None:
    scorer: Any = LengthScorer()
    file = write_jsonl("comparisons.jsonl", ROWS)
    found = evaluate_reward_model(scorer, file, judge=ScoreJudge(score=count_letters), bins=4)
    assert scorer.finished == [True, False, True, True, True, True, True]
    assert found["accuracy"] == 0.5
    # By the letter a: right, right, equal; right.
    assert found["gold_accuracy"] == 3.5 / 4
    assert (found["pairs"], found["prompts"], len(found["calibration"])) == (4, 3, 4)
    # Two prompts with pairs, 2 of 3 and 0 of 1: resamples of both, of the first twice, of the second twice.
    assert found["accuracy_interval"] == [0.0, pytest.approx(2 / 3)]
    assert found["heldout_labeler_accuracy"] is found["label_agreement"] is None


def test_second_opinions(write_jsonl: Callable[..., str]) -> None:
    scorer: Any = LengthScorer()
    file = write_jsonl("comparisons.jsonl", [{**row, "labeler": "ann"} for row in ROWS])

    def bob(rows: Any, responses: Any) -> list[dict[str, Any]]:
        assert [row["prompt"] for row in rows] == ["p", "q", "r"]
        assert responses == [row["responses"] for row in ROWS]
        # Pairs (1, 0), (2, 0), (1, 2); (0, 1); (0, 1).
        return [{"ranks": ranks, "labeler": "bob"} for ranks in ([3, 1, 2], [1, 2], [1, 2])]

    found = evaluate_reward_model(scorer, file, labelers={"train": bob, "heldout": bob})
    # Of the file's pairs (0, 1), (0, 2), (1, 2); (0, 1), bob agrees on the last two.
    assert found["label_agreement"] == 0.5
    # Two prompts decide: 1 of 3 and 1 of 1; of the four draws of two, both the first gives the least, 1/3.
    assert found["label_agreement_interval"] == pytest.approx([1 / 3, 1.0])
    # Lengths 4, 1, 2; 1, 3; 1, 1: wrong, wrong, wrong; wrong; equal.
    assert found["heldout_labeler_accuracy"] == 0.5 / 5
    assert found["gold_accuracy"] is None


def test_nobody_gives_a_second_opinion_on_their_own_ranking(write_jsonl: Callable[..., str]) -> None:
    scorer: Any = LengthScorer()
    rows = [{**row, "labeler": name} for row, name in zip(ROWS, ("ann", "bob", "ann"), strict=True)]
    file = write_jsonl("comparisons.jsonl", rows)

    def ann(rows: Any, responses: Any) -> list[dict[str, Any]]:
        return [{"ranks": ranks, "labeler": "ann"} for ranks in ([1, 2, 3], [2, 1], [1, 2])]

    # Ann agrees with herself on three pairs; the only one that bob ranked she sees the other way round.
    assert evaluate_reward_model(scorer, file, labelers={"train": ann})["label_agreement"] == 0.0


def test_labelers_who_measure_their_own_agreement_are_asked(write_jsonl: Callable[..., str]) -> None:
    class Panel:
        def __call__(self, rows: Any, responses: Any) -> list[dict[str, Any]]:
            return [{"ranks": row["ranks"]} for row in rows]

        def agreement(self, rows: Any, responses: Any) -> float:
            return 0.73

    scorer: Any = LengthScorer()
    file = write_jsonl("comparisons.jsonl", ROWS)
    found = evaluate_reward_model(scorer, file, labelers={"train": Panel(), "heldout": Panel()})
    assert (found["label_agreement"], found["heldout_label_agreement"]) == (0.73, 0.73)
    assert found["heldout_labeler_accuracy"] == 0.5
    assert found["label_agreement_interval"] is found["heldout_label_agreement_interval"] is None

    class Counting(Panel):
        def agreement_counts(self, rows: Any, responses: Any) -> list[tuple[int, int]]:
            return [(3, 3), (0, 0), (0, 1)]

    found = evaluate_reward_model(scorer, file, labelers={"heldout": Counting()})
    assert found["heldout_label_agreement"] == 0.75
    assert found["heldout_label_agreement_interval"] == pytest.approx([0.0, 1.0])


def test_an_unknown_group_of_labelers_is_an_error(write_jsonl: Callable[..., str]) -> None:
    scorer: Any = LengthScorer()
    with pytest.raises(UserError, match=r"labelers\.test"):
        evaluate_reward_model(
            scorer, write_jsonl("comparisons.jsonl", ROWS), labelers={"test": lambda rows, responses: []}
        )


def test_all_ties_leave_the_accuracy_unknown(write_jsonl: Callable[..., str]) -> None:
    scorer: Any = LengthScorer()
    found = evaluate_reward_model(scorer, write_jsonl("comparisons.jsonl", ROWS[2:]))
    assert (found["accuracy"], found["accuracy_interval"], found["calibration"]) == (None, None, [])
