"""What the models say of sampled responses, in the layout [b, t] of response tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lightning.data import Encoder
from rlhf_lightning.functional import kl_estimate, masked_mean
from rlhf_lightning.models import Generation, ScalarModel, TokenLogprobs
from rlhf_lightning.modules.batching import micro_batches
from rlhf_lightning.modules.trajectory import Trajectory, response_mask, response_targets, scatter


def decode_responses(encoder: Encoder, generation: Generation) -> list[str]:
    """The responses as text."""
    rows = zip(generation.response_ids.tolist(), generation.lengths.tolist(), strict=True)
    return [encoder.decode(ids[:length]) for ids, length in rows]


def response_logprobs(logprobs: TokenLogprobs, part: Trajectory) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [b, t] of the response tokens; 0 past the end of a response."""
    tokens = response_mask(part.response_lengths, part.mask.shape[1])
    targets = response_targets(part.prompt_lengths, part.response_lengths, part.input_ids.shape[1])
    chosen, entropy = logprobs(part.input_ids, targets)
    return scatter(chosen, tokens), scatter(entropy, tokens)


def response_values(value: ScalarModel | None, part: Trajectory) -> Tensor:
    """Values [b, t] of the states in which the response tokens were chosen: read one position before each token.
    Without a value model they are 0."""
    tokens = response_mask(part.response_lengths, part.mask.shape[1])
    if value is None:
        return torch.zeros(tokens.shape, device=part.input_ids.device)
    targets = response_targets(part.prompt_lengths, part.response_lengths, part.input_ids.shape[1])
    values = value(part.input_ids)[:, :-1][targets[:, 1:]]
    return scatter(values.float(), tokens)


@torch.no_grad()
def evaluate_responses(
    trajectory: Trajectory,
    *,
    policy: TokenLogprobs,
    reference: TokenLogprobs,
    value: ScalarModel | None,
    micro_batch_size: int,
) -> Trajectory:
    """The trajectory with log-probabilities of policy and reference, entropies and values filled in, computed by the
    same functions as in the update, so that the first ratio is 1."""
    filled = {name: torch.zeros_like(trajectory.rewards) for name in ("logprobs", "ref_logprobs", "entropy", "values")}
    for rows in micro_batches(trajectory.lengths, micro_batch_size):
        part = trajectory.rows(rows)
        logprobs, entropy = response_logprobs(policy, part)
        ref_logprobs, _ = response_logprobs(reference, part)
        found = (logprobs, ref_logprobs, entropy, response_values(value, part))
        for target, tensor in zip(filled.values(), found, strict=True):
            target[rows, : tensor.shape[1]] = tensor.to(target.dtype)
    return trajectory._replace(**filled)


def ratio_statistics(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, count: Tensor) -> dict[str, Tensor]:
    """``ratio`` = mean of ρ and ``approx_kl`` = k3 estimate of KL(old‖new), both over ``count`` tokens, so that the
    statistics of micro-batches add up like their losses."""
    with torch.no_grad():
        zero = logprobs.new_zeros(())
        old, new = torch.where(mask, old_logprobs, zero), torch.where(mask, logprobs, zero)
        return {
            "ratio": masked_mean((new - old).exp(), mask, count=count),
            "approx_kl": masked_mean(kl_estimate(old, new, estimator="k3"), mask, count=count),
        }
