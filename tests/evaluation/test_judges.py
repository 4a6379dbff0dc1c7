from __future__ import annotations

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import ScoreJudge

ROWS = [{"prompt": "p"}, {"prompt": "pp"}, {"prompt": "ppp"}]


def length(prompts: list[str], responses: list[str]) -> list[int]:
    return [len(response) for response in responses]


def test_the_higher_score_wins_and_equal_scores_tie() -> None:
    assert ScoreJudge(score=length).prefer(ROWS, ["aa", "a", "a"], ["b", "bb", "b"]) == [1.0, 0.0, 0.5]


def test_scores_within_the_tie_are_equal() -> None:
    judge = ScoreJudge(score=length, tie=1.0)
    assert judge.prefer(ROWS, ["aaa", "aa", "a"], ["b", "b", "bbb"]) == [1.0, 0.5, 0.0]


def test_the_gold_reward_is_the_score_of_prompt_and_response() -> None:
    judge = ScoreJudge(score=lambda prompts, responses: torch.tensor([10 * len(prompts[i]) for i in range(3)]))
    assert judge.assess(ROWS, ["", "", ""]) == {"gold_reward": [10.0, 20.0, 30.0]}


def test_a_score_for_each_response_is_required() -> None:
    with pytest.raises(UserError, match="2 scores for 3 responses"):
        ScoreJudge(score=lambda prompts, responses: [1, 2]).assess(ROWS, ["", "", ""])


def test_a_negative_tie_is_an_error() -> None:
    with pytest.raises(UserError, match=r"tie=-0\.1"):
        ScoreJudge(score=length, tie=-0.1)
