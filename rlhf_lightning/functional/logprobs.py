"""Log-probabilities of given tokens, without a vocabulary-sized tensor that outlives its use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def selected_logprobs(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token under its logits, and the entropy of the distribution.

    ``log π(y) = z_y/T − logsumexp(z/T)`` and ``H = −Σ_v π(v) log π(v)``. The temperature T divides the logits
    wherever a log-probability is taken, as it does in sampling. With ``entropy=False`` the second result is 0, which
    spares half of the passes over the logits.

    Shapes:
        logits: [..., v]; tokens: [...], long. Both results: [...], float32 at least.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    scaled = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if temperature != 1.0:
        scaled = scaled / temperature
    log_probs = scaled.log_softmax(-1)
    chosen = log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1) if entropy else torch.zeros_like(chosen)


def head_logprobs(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    tokens: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 1024,
    entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`selected_logprobs` of ``head(hidden)``, ``chunk_size`` tokens at a time.

    The logits of a chunk are freed after the forward pass and computed again in the backward pass, so that the
    peak is ``chunk_size · v`` instead of ``n · v``. Values and gradients do not depend on ``chunk_size``.

    Shapes:
        hidden: [n, d]; ``head`` maps [m, d] to logits [m, v]; tokens: [n]. Both results: [n].
    """
    if hidden.shape[0] != tokens.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states for {tokens.shape[0]} tokens")

    def chunk(part: Tensor, part_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return selected_logprobs(head(part), part_tokens, temperature=temperature, entropy=entropy)

    if hidden.shape[0] <= chunk_size:
        # One chunk keeps its logits: recomputing them would cost time and save nothing that matters.
        return chunk(hidden, tokens)
    chosen, entropies = [], []
    for part, part_tokens in zip(torch.split(hidden, chunk_size), torch.split(tokens, chunk_size), strict=True):
        if torch.is_grad_enabled():
            logprob, spread = checkpoint(chunk, part, part_tokens, use_reentrant=False)
        else:
            logprob, spread = chunk(part, part_tokens)
        chosen.append(logprob)
        entropies.append(spread)
    return torch.cat(chosen), torch.cat(entropies)
