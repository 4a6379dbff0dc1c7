"""Generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantage_estimation(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of each response token.

    ``δ_t = r_t + γ V_{t+1} − V_t``, ``A_t = δ_t + γλ A_{t+1}``, ``R_t = A_t + V_t``; V and A past the last token
    are 0, because the response ends the episode. Source: Schulman et al. 2016, eq. 16.

    Args:
        rewards, values: [b, t]; ``values[:, t]`` is V of the state in which token t is chosen.
        mask: [b, t], bool, a prefix of each row.
        gamma, lam: γ and λ, both within [0, 1].

    Returns:
        advantages, returns: [b, t]; 0 outside the mask. Take the returns before any whitening.
    """
    if not (rewards.shape == values.shape == mask.shape) or rewards.dim() != 2:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and mask {tuple(mask.shape)} "
            "must all be [b, t]"
        )
    zero = rewards.new_zeros(())
    rewards = torch.where(mask, rewards, zero)
    values = torch.where(mask, values, zero)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(rewards.shape[0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # Padding follows the response, so what comes before the last token in this loop is all zeros.
        next_advantage = torch.where(mask[:, t], delta + gamma * lam * next_advantage, zero)
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, torch.where(mask, advantages + values, zero)
