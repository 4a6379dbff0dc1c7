"""Sampled responses, and what makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.context import check_context

INSTEAD = "take rollout=native, which samples from the same distribution"
"""The way out where another engine cannot."""


class Generation(NamedTuple):
    """Sampled responses. Shapes: response_ids [b, t], right padded; lengths [b]; finished [b], bool; logprobs [b, t]:
    log-probabilities of the tokens under what they were drawn from, 0 behind a response, ``None`` if the engine does
    not know them; behaviour: log-probabilities and entropies [b, t] under the training forward of the policy that
    sampled, ``None`` where that is the policy as it still is."""

    response_ids: Tensor
    lengths: Tensor
    finished: Tensor
    logprobs: Tensor | None = None
    behaviour: tuple[Tensor, Tensor] | None = None


class RolloutEngine(Protocol):
    """Samples responses from a policy. All engines sample the same distribution, ``softmax(logits / temperature)``
    over the whole vocabulary, as closely as their arithmetic allows; none draws the same tokens for a seed.

    One with a true attribute ``beside_training`` may be called in a thread while others compute with other models; it
    then reads no global source of randomness and moves no global setting.
    """

    def check(self, model: nn.Module) -> None:
        """Refuse a policy that the engine cannot sample from; called once, before anything is trained.

        Raises:
            UserError: what the engine cannot do, and what can.
        """
        ...

    def generate(
        self,
        model: nn.Module,
        input_ids: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
        temperature: float = 1.0,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Sample one response for each prompt, from the weights that the model has now.

        Args:
            model: a transformers causal language model.
            input_ids: [b, p], right padded prompts; lengths: [b].
            max_new_tokens: longest response, EOS included.
            eos_token_id: ends a response and is part of it.
            pad_token_id: fills what is not read.
            temperature: divides the logits.
            greedy: take the likeliest token instead of a sample.
            generator: source of randomness; results depend on it alone.

        Raises:
            UserError: a prompt and its response could be longer than the model's context; logits that are no numbers.
        """
        ...


def check_request(model: nn.Module, lengths: Tensor, *, max_new_tokens: int, temperature: float, greedy: bool) -> None:
    """Refuse what no engine can do.

    Raises:
        UserError: no room for a response, a temperature that divides by nothing, more tokens than the context holds.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if temperature <= 0 and not greedy:
        raise UserError(f"temperature must be positive, got {temperature}; greedy=True takes the likeliest token")
    check_context(model, int(lengths.max()) + max_new_tokens)


def check_numbers(logprobs: Tensor, rows: Tensor | None = None) -> None:
    """Refuse tokens that were drawn from what is no distribution: log-probabilities [b, n] that are no numbers. The
    message names the first such row, by its number in ``rows`` [b] where they are given.

    Raises:
        UserError: the logits were no numbers.
    """
    wrong = ~logprobs.isfinite()
    if wrong.any():
        row = int(wrong.any(1).nonzero()[0] if rows is None else rows[wrong.any(1)][0])
        raise UserError(
            f"the logits of row {row} are no numbers, so that no token can be drawn: the model's weights have "
            "diverged or do not fit its dtype; lower module.learning_rate, or start from an earlier checkpoint, "
            "or set model.dtype=float32"
        )


def as_lists(input_ids: Tensor, lengths: Tensor) -> list[list[int]]:
    """Right-padded rows [b, p] with ``lengths`` [b] as lists without padding."""
    return [row[:length] for row, length in zip(input_ids.tolist(), lengths.tolist(), strict=True)]


def draw_seeds(count: int, generator: torch.Generator | None) -> list[int]:
    """Seeds for what has a source of randomness of its own, from ours."""
    where = "cpu" if generator is None else generator.device
    return torch.randint(2**31, (count,), generator=generator, device=where).tolist()


def generation_of_lists(
    response_ids: Sequence[list[int]],
    logprobs: Sequence[list[float]],
    *,
    eos_token_id: int,
    pad_token_id: int,
    device: torch.device,
) -> Generation:
    """Responses and log-probabilities of their tokens that an engine gives as lists.

    Raises:
        UserError: log-probabilities that are no numbers.
    """
    known = _padded(logprobs, 0.0, device)
    check_numbers(known)
    return as_generation(_padded(response_ids, pad_token_id, device), known, eos_token_id=eos_token_id)


def _padded(rows: Sequence[list[Any]], fill: float, device: torch.device) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=device)


def as_generation(response_ids: Tensor, logprobs: Tensor | None, *, eos_token_id: int) -> Generation:
    """Responses [b, n] cut to the longest. One ends with its first EOS; one without runs to the maximum."""
    is_eos = response_ids == eos_token_id
    finished = is_eos.any(1)
    lengths = torch.where(finished, is_eos.int().argmax(1) + 1, response_ids.shape[1])
    longest = int(lengths.max())
    return Generation(response_ids[:, :longest], lengths, finished, None if logprobs is None else logprobs[:, :longest])
