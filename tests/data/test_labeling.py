from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from rlhf_lightning.data import ScoreLabeler, VaderSentiment
from rlhf_lightning.errors import UserError


def length(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def test_ranks_by_score_highest_first_and_equal_scores_tie() -> None:
    labeler = ScoreLabeler(score=length)
    rows = [{"prompt": "p"}, {"prompt": "q"}]
    assert labeler(rows, [["a", "aaa", "aa", "bb"], ["a", "b"]]) == [
        {"ranks": [3, 1, 2, 2], "labeler": "length"},
        {"ranks": [1, 1], "labeler": "length"},
    ]


def test_ties_reach_a_fixed_distance_below_the_best_of_the_rank() -> None:
    labeler = ScoreLabeler(score=length, tie=1.0)
    (label,) = labeler([{"prompt": "p"}], [["aaaaa", "aaaa", "aaa", "aa", "a"]])
    assert label["ranks"] == [1, 1, 2, 2, 3]


def test_score_sees_the_prompt_of_each_response() -> None:
    seen = []

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        seen.extend(zip(prompts, responses, strict=True))
        return [0.0] * len(responses)

    ScoreLabeler(score=score)([{"prompt": "p"}, {"prompt": "q"}], [["a", "b"], ["c"]])
    assert seen == [("p", "a"), ("p", "b"), ("q", "c")]


def test_bad_scores_are_errors() -> None:
    with pytest.raises(UserError, match=r"gave 1 scores for 2 responses"):
        ScoreLabeler(score=lambda prompts, responses: [0.0])([{"prompt": "p"}], [["a", "b"]])
    with pytest.raises(UserError, match=r"gave nan for the response 'b'"):
        ScoreLabeler(score=lambda prompts, responses: [0.0, float("nan")])([{"prompt": "p"}], [["a", "b"]])
    with pytest.raises(UserError, match="must not be negative"):
        ScoreLabeler(score=length, tie=-1.0)


def test_vader_knows_good_from_bad() -> None:
    pytest.importorskip("vaderSentiment")  # the extra `stories` brings it
    good, flat, bad = VaderSentiment()(["p"] * 3, ["I love this wonderful day!", "A table.", "I hate this."])
    assert good > 0.5 > flat == 0.0 > bad
    (label,) = ScoreLabeler(score=VaderSentiment())([{"prompt": "p"}], [["I hate it.", "I love it."]])
    assert label == {"ranks": [2, 1], "labeler": "VaderSentiment"}


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(UserError, match=r"pip install rlhf-lightning\[stories\]"):
        VaderSentiment()
