from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lightning.functional import adaptive_kl_coef, kl_estimate

LOGPROBS = torch.tensor([-1.0, -2.0, -3.0])
REF = torch.tensor([-1.5, -1.0, -3.0])  # r = 0.5, −1, 0


def test_estimators_on_literal_values() -> None:
    assert kl_estimate(LOGPROBS, REF).tolist() == [0.5, -1.0, 0.0]
    assert kl_estimate(LOGPROBS, REF, estimator="k2").tolist() == [0.125, 0.5, 0.0]
    # exp(−0.5) − 1 + 0.5 = 0.1065307 and exp(1) − 1 − 1 = 0.7182818
    assert kl_estimate(LOGPROBS, REF, estimator="k3").tolist() == pytest.approx([0.1065307, 0.7182818, 0.0], abs=1e-6)


@pytest.mark.parametrize(("estimator", "tolerance"), [("k1", 1e-6), ("k3", 1e-6), ("k2", 0.02)])
def test_the_mean_over_the_policy_is_the_divergence(estimator: str, tolerance: float) -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    exact = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), reference.tolist(), strict=True))
    # The estimator is a parameter of the test.
    expected = (policy * kl_estimate(policy.log(), reference.log(), estimator=estimator)).sum()  # type: ignore[arg-type]
    assert expected.item() == pytest.approx(exact, abs=tolerance)


def test_k3_is_accurate_near_zero() -> None:
    log_ratio = torch.tensor(1e-3)  # r²/2 to leading order, which exp(−r) − 1 loses in float32
    assert kl_estimate(log_ratio, torch.tensor(0.0), estimator="k3").item() == pytest.approx(5e-7, rel=1e-2)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="'k4'"):
        kl_estimate(LOGPROBS, REF, estimator="k4")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),  # on target
        (6.6, 0.101),  # 10 % above: 0.1 · (1 + 0.1 · 512/5120)
        (60.0, 0.102),  # clipped at 20 %
        (0.0, 0.098),  # clipped at −20 %
        (5.4, 0.099),
    ],
)
def test_adaptive_coefficient(kl: float, expected: float) -> None:
    assert adaptive_kl_coef(0.1, kl, target=6.0, episodes=512, horizon=5120) == pytest.approx(expected)


@given(kl=st.floats(-10, 100), coef=st.floats(1e-4, 10))
def test_adaptive_coefficient_moves_towards_the_target(kl: float, coef: float) -> None:
    moved = adaptive_kl_coef(coef, kl, target=6.0, episodes=64, horizon=1000)
    assert (moved >= coef) == (kl >= 6.0) or moved == pytest.approx(coef)
    assert 0.98 * coef <= moved <= 1.02 * coef


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 10), (1.0, 0)])
def test_adaptive_coefficient_refuses_nonsense(target: float, horizon: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        adaptive_kl_coef(0.1, 1.0, target=target, episodes=1, horizon=horizon)
