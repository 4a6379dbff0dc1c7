from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import (
    FunctionJudge,
    LabelerJudge,
    Verdicts,
    ask_all_pairs,
    judge_in_random_order,
    label_agreement,
    summarize_preferences,
    verdicts_of_scores,
)

ROWS = [{"prompt": f"p{n}"} for n in range(400)]
LONG, SHORT = ["a long one"] * 400, ["short"] * 400


def first_is_better(prompts: list[str], left: list[str], right: list[str]) -> list[float]:
    return [1.0] * len(prompts)


def longer(prompts: list[str], left: list[str], right: list[str]) -> list[float]:
    return [float(len(a) > len(b)) for a, b in zip(left, right, strict=True)]


def test_verdicts_are_turned_back_to_the_first_model() -> None:
    said = judge_in_random_order(FunctionJudge(prefer=longer), ROWS, LONG, SHORT, seed=3)
    assert said.preferences == [1.0] * 400
    assert 150 < sum(said.first_shown) < 250
    assert judge_in_random_order(FunctionJudge(prefer=longer), ROWS, SHORT, LONG, seed=3).preferences == [0.0] * 400


def test_a_judge_who_likes_what_stands_first_prefers_nobody() -> None:
    said = judge_in_random_order(FunctionJudge(prefer=first_is_better), ROWS, LONG, SHORT, seed=0)
    assert sum(said.preferences) / 400 == pytest.approx(0.5, abs=0.075)
    assert said.preferences == [float(first) for first in said.first_shown]
    found = summarize_preferences({"biased": {("a", "b"): said}}, anchor="a")
    assert found["judges"]["biased"]["first_shown_won"] == 1.0


def test_the_order_depends_on_the_seed_alone() -> None:
    judge = FunctionJudge(prefer=longer)
    one, same, other = (judge_in_random_order(judge, ROWS, LONG, SHORT, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.first_shown != other.first_shown


@pytest.mark.parametrize("wrong", [[1.0], [2.0] * 400])
def test_verdicts_of_another_number_or_beyond_one_are_refused(wrong: list[float]) -> None:
    with pytest.raises(UserError, match="prefer must return"):
        judge_in_random_order(FunctionJudge(prefer=lambda *_: wrong), ROWS, LONG, SHORT, seed=0)


def test_every_two_models_meet() -> None:
    responses = {"a": LONG, "b": SHORT, "c": ["mid one"] * 400}
    pairs = ask_all_pairs(FunctionJudge(prefer=longer), ROWS, responses, seed=0)
    means = {pair: sum(said.preferences) / 400 for pair, said in pairs.items()}
    assert means == {("a", "b"): 1.0, ("a", "c"): 1.0, ("b", "c"): 0.0}
    orders = [tuple(said.first_shown) for said in pairs.values()]
    assert len(set(orders)) == 3


def test_the_summary_by_hand() -> None:
    def said(*values: float) -> Verdicts:
        return Verdicts(list(values), [True, False, True, True])

    verdicts = {
        "one": {("a", "b"): said(1.0, 1.0, 0.0, 0.5)},
        "two": {("a", "b"): said(1.0, 0.0, 0.0, 1.0)},
    }
    found = summarize_preferences(verdicts, anchor="b")
    (pair,) = found["judges"]["one"]["pairs"]
    assert (pair["first"], pair["second"], pair["win_rate"]) == ("a", "b", 0.625)
    assert pair["interval"][0] < 0.625 < pair["interval"][1]
    # Strict: the first row for what was shown first, the second and the third for what was shown second.
    assert found["judges"]["one"]["first_shown_won"] == pytest.approx(1 / 3)
    assert found["judges"]["two"]["ratings"]["a"]["rating"] == 0.0
    (agreement,) = found["agreement"]
    assert (agreement["judges"], agreement["share"], agreement["pairs"]) == (["one", "two"], pytest.approx(2 / 3), 3)
    assert json.loads(json.dumps(found)) == found


def test_a_score_prefers_the_higher_and_shows_no_order() -> None:
    verdicts = verdicts_of_scores({"a": [1.0, 2.0, 0.0], "b": [0.0, 2.0, 3.0]})
    assert verdicts["a", "b"].preferences == [1.0, 0.5, 0.0]
    assert summarize_preferences({"score": verdicts}, anchor="a")["judges"]["score"]["first_shown_won"] is None


def by_length(rows: Any, responses: Any) -> list[dict[str, Any]]:
    """A labeler: the longest first; rates by length, and flags what has an a."""
    return [
        {
            "ranks": [1 + sum(len(other) > len(text) for other in texts) for text in texts],
            "likert": [min(7, len(text)) for text in texts],
            "flags": {"inappropriate": ["a" in text for text in texts]},
        }
        for texts in responses
    ]


def test_a_labeler_judges_rates_and_flags() -> None:
    judge = LabelerJudge(labeler=by_length)
    rows = ROWS[:3]
    assert judge.prefer(rows, ["aa", "b", "cc"], ["a", "bb", "dd"]) == [1.0, 0.0, 0.5]
    found = judge.assess(rows, ["a", "bbb", "cccccccccc"])
    assert found == {"gold_reward": [1, 3, 7], "likert": [1, 3, 7], "inappropriate": [1.0, 0.0, 0.0]}


def test_a_labeler_that_only_ranks_rates_nothing() -> None:
    judge = LabelerJudge(labeler=lambda rows, responses: [{"ranks": [1] * len(texts)} for texts in responses])
    found = judge.assess(ROWS[:2], ["a", "b"])
    assert list(found) == ["gold_reward"]
    assert all(value != value for value in found["gold_reward"])


def test_a_labeler_that_loses_rows_is_refused() -> None:
    with pytest.raises(UserError, match="one dict for each of 3 rows"):
        LabelerJudge(labeler=lambda rows, responses: [{"ranks": [1, 2]}]).prefer(ROWS[:3], ["a"] * 3, ["b"] * 3)


def test_agreement_with_labels_counts_decided_pairs(tmp_path: Path) -> None:
    rows = [
        {"prompt": "x", "responses": ["aaa", "bb", "c"], "ranks": [1, 2, 3]},  # as the longer one: 3 of 3
        {"prompt": "y", "responses": ["a", "bb"], "ranks": [1, 2]},  # against it
        {"prompt": "z", "responses": ["aa", "bb"], "ranks": [1, 2]},  # the judge cannot tell
    ]
    file = tmp_path / "comparisons.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = label_agreement(LabelerJudge(labeler=by_length), file)
    assert (found["agreement"], found["decided"], found["ties"], found["pairs"]) == (0.75, 4, 1, 5)
    assert found["interval"] == [0.0, 1.0]  # two prompts, drawn whole
    assert label_agreement(LabelerJudge(labeler=by_length), file, limit=1)["agreement"] == 1.0
