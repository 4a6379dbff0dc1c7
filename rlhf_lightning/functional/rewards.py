"""From a score per response to a reward per token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MissingEos = Literal["keep", "subtract", "set", "drop"]


def missing_eos_scores(
    scores: Tensor, finished: Tensor, *, rule: MissingEos = "subtract", penalty: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Scores after the rule for responses that were cut off before their EOS, and which responses to learn from.

    - ``keep``: the score of the truncated text stands;
    - ``subtract``: ``score − penalty``;
    - ``set``: ``−penalty`` whatever the text;
    - ``drop``: the score stands, but the response is left out of the loss.

    Shapes:
        scores: [b]; finished: [b], bool. Results: scores [b]; kept [b], bool.
    """
    if rule == "subtract":
        adjusted = torch.where(finished, scores, scores - penalty)
    elif rule == "set":
        adjusted = torch.where(finished, scores, torch.full_like(scores, -penalty))
    elif rule in ("keep", "drop"):
        adjusted = scores
    else:
        raise ValueError(f"missing_eos {rule!r} is none of 'keep', 'subtract', 'set', 'drop'")
    kept = finished if rule == "drop" else torch.ones_like(finished)
    return adjusted, kept


def per_token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Rewards ``r_t = −β·kl_t`` on every response token, plus the score on the last one.

    Source: InstructGPT eq. 2; Ziegler et al. 2019, eq. 2.

    Args:
        scores: [b], the score of each response.
        kl: [b, t], the KL estimate of each token.
        mask: [b, t], bool, a prefix of each row: its response tokens, EOS included.
        kl_coef: β.

    Returns:
        [b, t]; 0 outside the mask. A row without a token keeps no reward.
    """
    rewards = torch.where(mask, -kl_coef * kl, kl.new_zeros(()))
    lengths = mask.sum(1)
    has_token = lengths > 0
    last = (lengths - 1).clamp(min=0)
    at_last = torch.where(has_token, scores, scores.new_zeros(()))
    return rewards.scatter_add(1, last.unsqueeze(1), at_last.to(rewards.dtype).unsqueeze(1))
