"""Estimators of the KL divergence from samples, and the rule that adapts its coefficient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlhf_lightning.functional.masking import masked_mean

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: KLEstimator = "k1") -> Tensor:
    """Per-token estimate of KL(π‖π_ref) from tokens sampled from π; with r = log π(y) − log π_ref(y):

    - ``k1``: ``r``, unbiased, can be negative (the paper's penalty, InstructGPT eq. 2);
    - ``k2``: ``r²/2``, biased, low variance;
    - ``k3``: ``exp(−r) − 1 + r``, unbiased and never negative.

    Source: Schulman, "Approximating KL divergence" (2020).

    Shapes:
        logprobs, ref_logprobs and the result: the same, any.
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    if estimator == "k3":
        return (-log_ratio).expm1() + log_ratio
    raise ValueError(f"kl estimator {estimator!r} is none of 'k1', 'k2', 'k3'")


@torch.no_grad()
def ratio_statistics(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, count: Tensor) -> dict[str, Tensor]:
    """``ratio``, the mean of ρ = π(y)/π_old(y), and ``approx_kl``, the k3 estimate of KL(π_old‖π), both over ``count``
    tokens, so that the statistics of micro-batches add up like their losses.

    Shapes:
        logprobs, old_logprobs: [b, t]; mask: [b, t], bool; count: a scalar, as are the results.
    """
    zero = logprobs.new_zeros(())
    old, new = torch.where(mask, old_logprobs, zero), torch.where(mask, logprobs, zero)
    return {
        "ratio": masked_mean((new - old).exp(), mask, count=count),
        "approx_kl": masked_mean(kl_estimate(old, new, estimator="k3"), mask, count=count),
    }


def adaptive_kl_coef(kl_coef: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """Next KL coefficient: ``β ← β·(1 + clip(KL/target − 1, −0.2, 0.2)·episodes/horizon)``.

    Source: Ziegler et al. 2019, section 2.2.

    Args:
        kl_coef: β now.
        kl: the measured KL of the last iteration, in nats per response.
        target: the KL to hold, in nats per response.
        episodes: how many episodes the measurement stands for.
        horizon: how many episodes it takes to change β by up to 20 %.
    """
    if target <= 0 or horizon <= 0:
        raise ValueError(f"target and horizon must be positive, got {target} and {horizon}")
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / horizon)
