"""Log-probabilities of given tokens, without a vocabulary-sized tensor that outlives its use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Numbers of logits that are read at a time on a CPU: what a core's cache holds. Whole chunks would go through memory
# once for each operation.
_PIECE = 2**19


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
    chosen: Tensor = _Chosen.apply(logits.flatten(0, -2), tokens.flatten(), temperature)  # type: ignore[no-untyped-call]
    chosen = chosen.view(tokens.shape)
    return chosen, _entropy(logits, temperature) if entropy else torch.zeros_like(chosen)


class _Chosen(torch.autograd.Function):
    """``log π(y)``, [n], of logits [n, v]. Kept for the backward pass are the logits, their maxima and what their
    logsumexp is beyond these: ``∂ log π(y) / ∂z_v = (1[v = y] − π(v)) / T``. The maximum is taken off first, so that
    logits far from 0 lose no digits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        tops, rests = [], []
        for part in _pieces(logits):
            exact = _scaled(part, temperature)
            tops.append(exact.amax(-1))
            rests.append((exact - tops[-1].unsqueeze(-1)).logsumexp(-1))
        top, rest = torch.cat(tops), torch.cat(rests)
        ctx.save_for_backward(logits, tokens, top, rest)
        ctx.temperature = temperature
        return _scaled(logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), temperature) - top - rest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, tokens, top, rest = ctx.saved_tensors
        gradient = gradients[0] / ctx.temperature
        found = torch.empty_like(logits)
        parts = zip(*(_pieces(logits, tensor) for tensor in (logits, tokens, top, rest, gradient, found)), strict=True)
        for part, chosen, most, more, weight, result in parts:
            shifted = _scaled(part, ctx.temperature) - most.unsqueeze(-1)
            slope = shifted.sub_(more.unsqueeze(-1)).exp_().mul_(-weight.unsqueeze(-1))
            slope.scatter_add_(-1, chosen.unsqueeze(-1), weight.unsqueeze(-1))
            result.copy_(slope)
        return found, None, None


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    if torch.is_grad_enabled() and logits.requires_grad:
        log_probs = _scaled(logits, temperature).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)
    parts = (_scaled(part, temperature).log_softmax(-1) for part in _pieces(logits.flatten(0, -2)))
    return torch.cat([-(part.exp() * part).sum(-1) for part in parts]).view(logits.shape[:-1])


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    exact = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return exact if temperature == 1.0 else exact / temperature


def _pieces(logits: Tensor, tensor: Tensor | None = None) -> tuple[Tensor, ...]:
    """Rows of a tensor as the logits [n, v] are read; on a GPU all of them at once."""
    tensor = logits if tensor is None else tensor
    rows = max(_PIECE // logits.shape[-1], 1) if logits.device.type == "cpu" else len(logits)
    return torch.split(tensor, max(rows, 1))


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
