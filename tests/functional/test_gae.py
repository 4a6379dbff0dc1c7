from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lightning.functional import generalized_advantage_estimation as gae

NAN = float("nan")


def test_literal_values() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0]])
    values = torch.tensor([[0.5, 1.0, 2.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.9, lam=0.5)
    # δ = 1 + 0.9·1 − 0.5 = 1.4;  2 + 0.9·2 − 1 = 2.8;  3 − 2 = 1
    # A₃ = 1;  A₂ = 2.8 + 0.45·1 = 3.25;  A₁ = 1.4 + 0.45·3.25 = 2.8625
    torch.testing.assert_close(advantages, torch.tensor([[2.8625, 3.25, 1.0]]))
    torch.testing.assert_close(returns, torch.tensor([[3.3625, 4.25, 3.0]]))


def test_lambda_one_gives_the_sum_of_the_rewards_to_come_and_lambda_zero_the_td_error() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(gae(rewards, values, mask, lam=1.0)[1], torch.tensor([[7.0, 6.0, 4.0]]))
    torch.testing.assert_close(gae(rewards, values, mask, lam=0.0)[0], torch.tensor([[1.1, 2.1, 3.7]]))


def test_what_lies_past_the_end_is_worth_nothing() -> None:
    rewards = torch.tensor([[1.0, 2.0, NAN], [0.5, NAN, NAN], [NAN, NAN, NAN]])
    values = torch.tensor([[0.5, 1.0, NAN], [0.25, NAN, NAN], [NAN, NAN, NAN]])
    mask = rewards.isfinite()
    advantages, returns = gae(rewards, values, mask, lam=1.0)
    # row 1: A₂ = 2 − 1, A₁ = 1 + 2 − 0.5; row 2: 0.5 − 0.25
    assert advantages.tolist() == [[2.5, 1.0, 0.0], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert returns.tolist() == [[3.0, 2.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]


numbers = st.floats(-10, 10, width=32)


@given(
    episodes=st.lists(st.lists(st.tuples(numbers, numbers), max_size=6), min_size=1, max_size=4),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_equals_the_definition_as_a_sum(episodes: list[list[tuple[float, float]]], gamma: float, lam: float) -> None:
    # A_t = Σ_k (γλ)^k δ_{t+k}, Schulman et al. 2016, eq. 16, written out for each episode alone
    steps = max(1, *map(len, episodes))
    rewards = torch.zeros(len(episodes), steps, dtype=torch.float64)
    values, mask = torch.zeros_like(rewards), torch.zeros_like(rewards, dtype=torch.bool)
    expected = torch.zeros_like(rewards)
    for row, episode in enumerate(episodes):
        deltas = []
        for t, (reward, value) in enumerate(episode):
            rewards[row, t], values[row, t], mask[row, t] = reward, value, True
            following = episode[t + 1][1] if t + 1 < len(episode) else 0.0
            deltas.append(reward + gamma * following - value)
        for t in range(len(episode)):
            expected[row, t] = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, torch.where(mask, expected + values, 0.0))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 2\)"):
        gae(torch.zeros(2, 3), torch.zeros(2, 2), torch.ones(2, 3, dtype=torch.bool))
