from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from rlhf_lightning.functional import clipped_policy_loss, clipped_value_loss, cross_entropy, ranking_loss

NAN = float("nan")
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_cross_entropy() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-6.0, NAN, NAN]])
    assert cross_entropy(logprobs, MASK).item() == 3.0  # (1 + 2 + 6) / 3
    assert cross_entropy(logprobs, MASK, count=torch.tensor(9)).item() == 1.0


# --- ranking loss


def _ranking(scores: list[float], pairs: list[tuple[int, int, int]], prompts: int) -> Tensor:
    better, worse, prompt = (torch.tensor([pair[i] for pair in pairs], dtype=torch.long) for i in range(3))
    counts = torch.bincount(prompt, minlength=prompts)
    return ranking_loss(torch.tensor(scores), better, worse, prompt, pairs_of_prompt=counts)


def test_two_completions_give_the_pairwise_loss() -> None:
    # −ln σ(2) = ln(1 + e⁻²) = 0.126928
    assert _ranking([3.0, 1.0], [(0, 1, 0)], 1).item() == pytest.approx(0.126928, abs=1e-6)
    assert _ranking([1.0, 3.0], [(0, 1, 0)], 1).item() == pytest.approx(2.126928, abs=1e-6)


def test_a_full_ranking_is_the_mean_over_its_pairs_then_over_prompts() -> None:
    # Prompt 0 ranks 4 completions, prompt 1 two: by brute force over pairs, each prompt weighs the same.
    scores = [0.3, -1.0, 2.0, 0.7, 1.5, -0.5]
    orders = [[2, 0, 3, 1], [5, 4]]
    pairs = [(better, worse, p) for p, order in enumerate(orders) for better, worse in combinations(order, 2)]
    assert len(pairs) == 6 + 1
    of_prompt = [
        [math.log1p(math.exp(-(scores[b] - scores[w]))) for b, w in combinations(order, 2)] for order in orders
    ]
    expected = (sum(of_prompt[0]) / 6 + sum(of_prompt[1]) / 1) / 2
    assert _ranking(scores, pairs, 2).item() == pytest.approx(expected, rel=1e-6)


def test_a_star_is_a_partial_order_like_any_other() -> None:
    # 0 beats 1, 2 and 3; nothing is said of those three: (ln(1+e⁻¹) + ln(1+e⁻²) + ln(1+e⁻³)) / 3
    expected = sum(math.log1p(math.exp(-gap)) for gap in (1, 2, 3)) / 3
    assert _ranking([3.0, 2.0, 1.0, 0.0], [(0, 1, 0), (0, 2, 0), (0, 3, 0)], 1).item() == pytest.approx(expected)


def test_a_prompt_whose_completions_are_tied_counts_for_nothing() -> None:
    tied = _ranking([3.0, 1.0, 5.0, 5.0], [(0, 1, 0)], 2)
    assert tied.item() == pytest.approx(0.126928, abs=1e-6)


def test_ties_alone_give_zero_and_can_be_backpropagated() -> None:
    rewards = torch.tensor([1.0, 2.0], requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = ranking_loss(rewards, none, none, none, pairs_of_prompt=torch.zeros(1, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert rewards.grad is not None
    assert rewards.grad.tolist() == [0.0, 0.0]


def test_prompts_with_the_global_count_add_up() -> None:
    whole = _ranking([0.3, -1.0, 2.0, 0.5], [(0, 1, 0), (3, 2, 1)], 2)
    one = torch.tensor([1])
    first, second, zero = torch.tensor([0]), torch.tensor([1]), torch.tensor([0])
    parts = [
        ranking_loss(torch.tensor([0.3, -1.0]), first, second, zero, pairs_of_prompt=one, prompts=torch.tensor(2)),
        ranking_loss(torch.tensor([2.0, 0.5]), second, first, zero, pairs_of_prompt=one, prompts=torch.tensor(2)),
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_ranking_loss_is_finite_for_extreme_scores() -> None:
    assert _ranking([-500.0, 500.0], [(0, 1, 0)], 1).item() == pytest.approx(1000.0)


# --- policy loss


def _policy(ratio: float, advantage: float, clip: float = 0.2) -> tuple[float, float, float]:
    """Loss, clip fraction and gradient with respect to the log-probability of a single token."""
    logprobs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss, fraction = clipped_policy_loss(logprobs, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), mask, clip=clip)
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), fraction.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (1.0, 2.0, -2.0, 0.0, -2.0),
        (1.1, 2.0, -2.2, 0.0, -2.2),  # inside the trust region: d/dlogp of −Aρ is −Aρ
        (1.5, 2.0, -2.4, 1.0, 0.0),  # good and likelier already: −2 · 1.2, no more gradient
        (0.5, 2.0, -1.0, 0.0, -1.0),  # good but less likely: not clipped
        (0.5, -2.0, 1.6, 1.0, 0.0),  # bad and less likely already: 2 · 0.8
        (1.5, -2.0, 3.0, 0.0, 3.0),  # bad and likelier: not clipped
    ],
)
def test_the_four_corners_of_clipping(
    ratio: float, advantage: float, loss: float, clipped: float, gradient: float
) -> None:
    assert _policy(ratio, advantage) == pytest.approx((loss, clipped, gradient), abs=1e-5)


def test_policy_loss_is_a_mean_over_valid_tokens() -> None:
    logprobs = torch.zeros(2, 3)
    advantages = torch.tensor([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    loss, fraction = clipped_policy_loss(logprobs, logprobs, advantages, MASK)
    assert (loss.item(), fraction.item()) == (-2.0, 0.0)  # −(1 + 2 + 3) / 3
    loss, _ = clipped_policy_loss(logprobs, logprobs, advantages, MASK, count=torch.tensor(12))
    assert loss.item() == -0.5


# --- value loss


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "expected"),
    [
        (1.0, 1.0, 3.0, 0.2, 2.0),  # ½ · 2²
        (2.0, 1.0, 3.0, 0.2, 1.62),  # moved further than 0.2: ½ · max(1², (1.2 − 3)²) = ½ · 3.24
        (2.0, 1.0, 1.0, 0.2, 0.5),  # moved away: ½ · max(1², 0.2²)
        (0.0, 1.0, -1.0, 0.2, 1.62),  # the same below: ½ · (0.8 + 1)²
        (2.0, 1.0, 3.0, None, 0.5),
    ],
)
def test_value_loss(value: float, old: float, target: float, clip: float | None, expected: float) -> None:
    args = (torch.tensor([[x]]) for x in (value, old, target))
    assert clipped_value_loss(*args, torch.ones(1, 1, dtype=torch.bool), clip=clip).item() == pytest.approx(expected)


def test_value_loss_is_a_mean_over_valid_tokens() -> None:
    returns = torch.tensor([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    zeros = torch.zeros(2, 3)
    assert clipped_value_loss(zeros, zeros, returns, MASK).item() == pytest.approx(14 / 6)  # ½ · (1 + 4 + 9) / 3
    assert clipped_value_loss(zeros, zeros, returns, MASK, count=torch.tensor(14)).item() == pytest.approx(0.5)


# --- masked slots and micro-batches, for the three token losses


def _losses(filler: float) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(4)
    fields = [torch.where(MASK, torch.randn(2, 3), filler) for _ in range(3)]
    results = []
    for loss in (
        lambda x: cross_entropy(x, MASK),
        lambda x: clipped_policy_loss(x, fields[1], fields[2], MASK)[0],
        lambda x: clipped_policy_loss(x, fields[1], fields[2], MASK)[1] + 0 * x[0, 0],
        lambda x: clipped_value_loss(x, fields[1], fields[2], MASK),
    ):
        x = fields[0].clone().requires_grad_()
        value = loss(x)
        value.backward()
        assert x.grad is not None
        results.append((value.detach(), x.grad))
    return results


@pytest.mark.parametrize("planted", [NAN, float("inf"), 1e30])
def test_masked_slots_change_neither_loss_nor_gradient(planted: float) -> None:
    torch.testing.assert_close(_losses(planted), _losses(0.0), rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_micro_batches_add_up_to_the_minibatch(size: int) -> None:
    torch.manual_seed(5)
    x, old, target = (torch.randn(6, 4, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(4) < torch.tensor([1, 4, 2, 3, 4, 1]).unsqueeze(1)
    count = mask.sum()
    for loss in (
        lambda r, count=None: cross_entropy(x[r], mask[r], count=count),
        lambda r, count=None: clipped_policy_loss(x[r], old[r], target[r], mask[r], count=count)[0],
        lambda r, count=None: clipped_policy_loss(x[r], old[r], target[r], mask[r], count=count)[1],
        lambda r, count=None: clipped_value_loss(x[r], old[r], target[r], mask[r], count=count),
    ):
        parts = sum(loss(rows, count) for rows in torch.arange(6).split(size))
        torch.testing.assert_close(parts, loss(torch.arange(6)))
