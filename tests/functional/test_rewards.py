from __future__ import annotations

import pytest
import torch

from rlhf_lightning.functional import missing_eos_scores, per_token_rewards

NAN = float("nan")
MASK = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])


def test_the_score_lands_on_the_last_valid_token() -> None:
    kl = torch.tensor([[0.5, -1.0, NAN], [0.0, 2.0, 4.0], [NAN, NAN, NAN]])
    rewards = per_token_rewards(torch.tensor([1.0, -2.0, 7.0]), kl, MASK, kl_coef=0.1)
    expected = torch.tensor(
        [
            [-0.05, 0.1 + 1.0, 0.0],
            [0.0, -0.2, -0.4 - 2.0],
            [0.0, 0.0, 0.0],  # no token, nowhere to put a reward
        ]
    )
    torch.testing.assert_close(rewards, expected)


def test_a_row_without_tokens_may_have_any_score() -> None:
    rewards = per_token_rewards(torch.tensor([1.0, 1.0, NAN]), torch.zeros(3, 3), MASK, kl_coef=0.1)
    assert rewards.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("rule", "scores", "kept"),
    [
        ("keep", [2.0, 3.0], [True, True]),
        ("subtract", [2.0, 1.5], [True, True]),  # 3 − 1.5
        ("set", [2.0, -1.5], [True, True]),
        ("drop", [2.0, 3.0], [True, False]),
    ],
)
def test_rules_for_a_missing_eos(rule: str, scores: list[float], kept: list[bool]) -> None:
    finished = torch.tensor([True, False])
    # The rule is a parameter of the test.
    found = missing_eos_scores(torch.tensor([2.0, 3.0]), finished, rule=rule, penalty=1.5)  # type: ignore[arg-type]
    assert (found[0].tolist(), found[1].tolist()) == (scores, kept)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'ignore'"):
        # Wrong on purpose.
        missing_eos_scores(torch.zeros(1), torch.ones(1, dtype=torch.bool), rule="ignore")  # type: ignore[arg-type]
