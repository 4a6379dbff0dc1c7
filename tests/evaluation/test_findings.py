from __future__ import annotations

from typing import Any

import pytest

from rlhf_lightning.evaluation.findings import findings, tax_recovered


def said(report: dict[str, Any], words: str) -> str:
    (line,) = (line for line in findings(report) if words in line)
    return line


def test_a_win_is_claimed_only_where_the_interval_allows(report: dict[str, Any]) -> None:
    lines = findings(report)
    assert lines[:3] == [
        "**PPO-ptx cannot be told from SFT**: it wins on 52.0 % of 40 held-out prompts (95 % interval 47.0–57.0 %).",
        "**PPO beats SFT** on 75.0 % of 40 held-out prompts (95 % interval 70.0–80.0 %).",
        "**Base loses to SFT**: it wins on 10.0 % of 40 held-out prompts (95 % interval 5.0–15.0 %).",
    ]


def test_the_change_is_that_of_ppo_ptx_where_there_is_one(report: dict[str, Any]) -> None:
    assert "gold reward +1.00 → +1.50" in said(report, "From SFT to PPO-ptx")
    assert "rude 25.0 % → 0.0 %" in said(report, "From SFT to PPO-ptx")
    del report["models"]["ppo_ptx"]
    assert "gold reward +1.00 → +0.75" in said(report, "From SFT to PPO:")


def test_the_tax_and_what_is_taken_back(report: dict[str, Any]) -> None:
    # From 2.0 to 3.0 and back to 2.2.
    assert tax_recovered(report["models"], "sft") == pytest.approx(0.8)
    assert "raises the loss on held-out pretraining text by 1.000 (2.000 → 3.000" in said(report, "Alignment tax")
    assert "takes back 80 % of that, to 2.200." in said(report, "Alignment tax")


@pytest.mark.parametrize(
    ("ppo", "ptx", "words"),
    [
        (1.9, 1.8, "No alignment tax"),
        (2.5, 1.9, "takes back all of it and more, to 1.900"),
        (2.5, 2.6, "PPO-ptx raises it further, to 2.600"),
        (2.5, None, "(2.000 → 2.500 nats per token)."),
    ],
)
def test_other_taxes(report: dict[str, Any], ppo: float, ptx: float | None, words: str) -> None:
    report["models"]["ppo"]["pretrain_loss"] = ppo
    report["models"]["ppo_ptx"]["pretrain_loss"] = ptx
    assert words in said(report, "lignment tax")


def test_over_optimisation_is_called_by_its_name(report: dict[str, Any]) -> None:
    # PPO's proxy reward rises from 0.5 to 2, and its gold reward falls from 1 to 0.75. PPO-ptx's proxy stays.
    assert "PPO is over-optimised" in said(report, "over-optimised")
    report["models"]["ppo"]["gold_reward"] = 1.25
    assert not any("over-optimised" in line for line in findings(report))


def test_responses_cut_at_the_limit_are_mentioned_of_trained_models(report: dict[str, Any]) -> None:
    # The base model, of whom nobody expects it, ends 40 %.
    assert not any("by itself" in line for line in findings(report))
    report["models"]["ppo"]["eos_rate"] = 0.5
    assert "PPO ends only 50.0 %" in said(report, "by itself")


def test_the_reward_model_stands_beside_what_is_possible(report: dict[str, Any]) -> None:
    assert said(report, "reward model orders") == (
        "The reward model orders 70.0 % of 40 held-out pairs as labeled (the gold reward itself: 74.0 %; "
        "against held-out labelers: 69.0 %; two labelers agree on 73.0 %)."
    )


def test_a_judge_who_is_the_labeler_is_no_independent_one(report: dict[str, Any]) -> None:
    assert not any("judge and labeler" in line for line in findings(report))
    report["reward_model"]["gold_accuracy"] = 1.0
    assert "judge and labeler are the same" in said(report, "explains every label")


def test_missing_numbers_leave_their_sentence_out(report: dict[str, Any]) -> None:
    report["reward_model"] = None
    for values in report["models"].values():
        values["pretrain_loss"] = values["gold_reward"] = values["proxy_reward"] = None
    lines = findings(report)
    assert len(lines) == 4  # three win rates, and what else changed from SFT to PPO-ptx
    assert not any("None" in line for line in lines)
