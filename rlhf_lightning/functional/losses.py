"""The four losses of InstructGPT. Each takes the global count of what it averages over, so that the gradients of
micro-batches and ranks add up to the gradient of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lightning.functional.masking import masked_mean, valid_or_zero


def cross_entropy(logprobs: Tensor, mask: Tensor, *, count: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of the labels: ``−Σ m log π(y) / count``.

    It is the SFT loss over response tokens (EOS included) and the pretraining term of PPO-ptx (InstructGPT eq. 2).

    Args:
        logprobs, mask: the same shape; which entries are labels.
        count: number of labels of the global batch; by default those of ``mask``.
    """
    return -masked_mean(logprobs, mask, count=count)


def ranking_loss(
    rewards: Tensor,
    better: Tensor,
    worse: Tensor,
    prompt: Tensor,
    *,
    pairs_of_prompt: Tensor,
    prompts: Tensor | None = None,
) -> Tensor:
    """K-wise ranking loss, InstructGPT eq. 1: for each prompt the mean over its pairs of
    ``−log σ(r_better − r_worse)``, then the mean over prompts.

    A full ranking of K completions gives up to K(K−1)/2 pairs; a tie gives none, and a partial order those that
    it names. K = 2 is the pairwise loss.

    Args:
        rewards: [n], one score for each completion.
        better, worse: [m], indices into ``rewards``.
        prompt: [m], the prompt of each pair, an index into ``pairs_of_prompt``.
        pairs_of_prompt: [b], number of pairs of each prompt.
        prompts: number of prompts of the global batch that have a pair; by default those counted here.
    """
    if better.numel() == 0:
        # Still a function of the rewards: a batch of ties alone must not break a backward pass.
        return rewards.sum() * 0.0
    if prompts is None:
        prompts = (pairs_of_prompt > 0).sum()
    weights = 1.0 / pairs_of_prompt[prompt].to(rewards.dtype)
    losses = -logsigmoid(rewards[better] - rewards[worse])
    return (losses * weights).sum() / prompts.clamp(min=1)


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective: mean over valid tokens of ``max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε))`` with
    ``ρ = exp(log π(y) − log π_old(y))``. Source: Schulman et al. 2017, eq. 7.

    Args:
        logprobs, old_logprobs, advantages, mask: [b, t]; the last two of the rollout.
        clip: ε.
        count: number of valid tokens of the global minibatch.

    Returns:
        The loss, and the share of tokens whose clipped branch is the larger, over the same ``count``.
    """
    # An unread slot may hold anything; a zero log-ratio there keeps exp and its gradient finite.
    log_ratio = valid_or_zero(logprobs - old_logprobs, mask)
    advantages = valid_or_zero(advantages, mask)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.maximum(unclipped, clipped), mask, count=count)
    return loss, masked_mean((clipped > unclipped).to(loss.dtype), mask, count=count).detach()


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None = 0.2,
    count: Tensor | None = None,
) -> Tensor:
    """Value loss: ½ · mean over valid tokens of ``max((V − R)², (clip(V, V_old ± ε_v) − R)²)``.

    Args:
        values, old_values, returns, mask: [b, t].
        clip: ε_v; ``None`` leaves the plain squared error.
        count: number of valid tokens of the global minibatch.
    """
    values, old_values, returns = (valid_or_zero(x, mask) for x in (values, old_values, returns))
    error = (values - returns).square()
    if clip is not None:
        near = torch.clamp(values, old_values - clip, old_values + clip)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * masked_mean(error, mask, count=count)
