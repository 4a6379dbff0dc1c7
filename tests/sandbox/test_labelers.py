"""Simulated labelers: ranks and ties, noise, agreement; and the judge that is made of them."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.sandbox import SandboxJudge, SimulatedLabelers
from rlhf_lightning.sandbox.demonstrations import Demonstrator
from rlhf_lightning.sandbox.gold import gold_reward
from rlhf_lightning.sandbox.labelers import Labeler, hire, task_of
from rlhf_lightning.sandbox.phrasings import phrase
from rlhf_lightning.sandbox.samples import simulated_sample
from rlhf_lightning.sandbox.tasks import Task, draw_task
from rlhf_lightning.sandbox.use_cases import use_case_counts

Rows = list[dict[str, str]]
ASK = {
    "prompt": "What does the wolf eat?",
    "task": Task("open_qa", "ask", {"a": "wolf", "kind": "food"}).to_json(),
}


@pytest.fixture(scope="module")
def sampled() -> tuple[Rows, list[list[str]]]:
    """Prompts in the paper's proportions with simulated samples of an SFT model."""
    rng = Random(7)
    rows, responses = [], []
    for use_case, count in use_case_counts(500).items():
        for _ in range(count):
            task = draw_task(use_case, rng)
            rows.append({"prompt": phrase(task, rng), "task": task.to_json()})
            responses.append([simulated_sample(task, Demonstrator(rng), rng) for _ in range(rng.randrange(4, 10))])
    return rows, responses


def test_ranks_group_what_is_within_the_tie_of_the_groups_best() -> None:
    labeler = Labeler("x", {}, noise=0.0, tie=0.5)
    assert labeler.ranks([1.0, 3.0, 2.6, 2.4, -1.0]) == [3, 1, 1, 2, 4]
    assert labeler.ranks([0.0, 0.0]) == [1, 1]
    assert labeler.ranks([]) == []


def test_a_clean_answer_is_ranked_above_flawed_ones_by_nearly_everybody() -> None:
    texts = ["The wolf eats meat.", "The wolf eats honey. You are a fool.", "hat hat hat hat"]
    task = Task.from_json(ASK["task"])
    firsts = []
    for labeler in hire(seed=0) + hire(seed=0, group="heldout"):
        utilities = [labeler.utility(task, ASK["prompt"], text) for text in texts]
        firsts.append(labeler.ranks(utilities)[0] == 1)
    assert len(firsts) == 40
    assert sum(firsts) >= 33


def test_groups_are_disjoint_and_tastes_differ() -> None:
    train, heldout = hire(seed=0), hire(seed=0, group="heldout")
    assert (len(train), len(heldout)) == (32, 8)
    assert not {one.name for one in train} & {one.name for one in heldout}
    assert len({one.weights["closing"] for one in train + heldout}) == 40


def test_rows_are_labelled_the_same_alone_in_any_order_and_in_another_process(
    sampled: tuple[Rows, list[list[str]]],
) -> None:
    rows, responses = sampled[0][:40], sampled[1][:40]
    labelers = SimulatedLabelers(seed=3)
    together = labelers(rows, responses)
    assert SimulatedLabelers(seed=3)(rows[::-1], responses[::-1])[::-1] == together
    assert [labelers([row], [texts])[0] for row, texts in zip(rows, responses, strict=True)] == together
    reversed_texts = labelers(rows, [texts[::-1] for texts in responses])
    assert [one["ranks"][::-1] for one in reversed_texts] == [one["ranks"] for one in together]
    assert SimulatedLabelers(seed=4)(rows, responses) != together
    code = (
        "from rlhf_lightning.sandbox.labelers import hire; from rlhf_lightning.sandbox.tasks import Task;"
        f"print(repr(hire(seed=3)[5].utility(Task.from_json({ASK['task']!r}), 'p', 'Meat.')))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == repr(hire(seed=3)[5].utility(Task.from_json(ASK["task"]), "p", "Meat."))


def test_a_row_has_ranks_labeler_likert_and_flags() -> None:
    (row,) = SimulatedLabelers()([ASK], [["The wolf eats meat.", "You are a fool.", "The wolf eats meat."]])
    assert row["ranks"] == [1, 2, 1]
    assert row["labeler"].startswith("labeler-0-")
    assert row["likert"][0] > row["likert"][1] >= 1
    assert row["flags"]["inappropriate"] == [False, True, False]


def test_two_labelers_agree_on_73_per_cent(sampled: tuple[Rows, list[list[str]]]) -> None:
    assert SimulatedLabelers(seed=0).agreement(*sampled) == pytest.approx(0.73, abs=0.02)
    heldout = SimulatedLabelers(seed=0, group="heldout").agreement(*sampled)
    assert 0.73 < heldout < 0.80


def test_gold_orders_what_labelers_order(sampled: tuple[Rows, list[list[str]]]) -> None:
    rows, responses = sampled
    right = total = 0
    for row, texts, label in zip(rows, responses, SimulatedLabelers(seed=0)(rows, responses), strict=True):
        gold = [gold_reward(task_of(row), text) for text in texts]
        for i in range(len(texts)):
            for j in range(len(texts)):
                if label["ranks"][i] < label["ranks"][j]:
                    total += 1
                    right += gold[i] > gold[j]
    assert 0.74 < right / total < 0.90


def test_judge_does_not_see_the_order(sampled: tuple[Rows, list[list[str]]]) -> None:
    rows, responses = sampled
    left, right = [texts[0] for texts in responses], [texts[1] for texts in responses]
    judge = SandboxJudge()
    wins = judge.prefer(rows, left, right)
    assert judge.prefer(rows, right, left) == [1.0 - win for win in wins]
    assert set(wins) == {0.0, 0.5, 1.0}
    assert judge.prefer(rows, left, left) == [0.5] * len(rows)


def test_clean_courteous_answers_beat_typical_samples(sampled: tuple[Rows, list[list[str]]]) -> None:
    texts = ["Sure! The wolf eats meat. Have a nice day!"] * 200
    rng = Random(1)
    task = Task.from_json(ASK["task"])
    rows = [{"prompt": f"What does the wolf eat? {i}", "task": ASK["task"]} for i in range(200)]
    typical = [simulated_sample(task, Demonstrator(rng), rng) for _ in range(200)]
    wins = SandboxJudge().prefer(rows, texts, typical)
    assert sum(wins) / len(wins) > 0.75


def test_judge_assesses_every_column() -> None:
    columns = SandboxJudge().assess([ASK, ASK], ["The wolf eats meat.", "The wolf eats honey. I hate you."])
    assert columns["instruction_followed"] == [1.0, 1.0]
    assert columns["truthful"] == [1.0, 0.0]
    assert columns["rude"] == [0.0, 1.0]
    assert columns["hallucination"] == [0.0, 1.0]
    assert columns["gold_reward"][0] > columns["gold_reward"][1] + 2
    assert all(1 <= value <= 7 for value in columns["likert"])
    assert len(columns) == 15


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match="no task column"):
        SimulatedLabelers()([{"prompt": "Hi"}], [["a", "b"]])
    with pytest.raises(UserError, match="not a sandbox task"):
        SandboxJudge().assess([{"prompt": "Hi", "task": "x"}], ["a"])
    with pytest.raises(UserError, match="1 rows but responses for 0"):
        SimulatedLabelers()([ASK], [])
    with pytest.raises(UserError, match="as many"):
        SandboxJudge().prefer([ASK], ["a"], [])
    with pytest.raises(UserError, match="heldout=40"):
        SimulatedLabelers(heldout=40)
    with pytest.raises(UserError, match="neither"):
        SandboxJudge(group="all")  # type: ignore[arg-type]  # wrong on purpose
