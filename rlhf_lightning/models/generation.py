"""Sampling from a causal language model with the KV cache, rows leaving the batch as they end."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import sample_tokens
from rlhf_lightning.models.context import check_context
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.sharding import any_rank, is_sharded


class Generation(NamedTuple):
    """Sampled responses. Shapes: response_ids [b, t], right padded; lengths [b]; finished [b], bool."""

    response_ids: Tensor
    lengths: Tensor
    finished: Tensor


def generate(
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
    batch_size: int | None = None,
) -> Generation:
    """Sample one response for each prompt from the model's own distribution (no top-k, no top-p).

    Prompts are taken in order of length, ``batch_size`` at a time; a row that has ended leaves the batch and its
    cache, and decoding stops when all have ended: of a sharded model, those of every process, because each step is a
    collective. Processes then give equally many prompts.

    Args:
        input_ids: [b, p], right padded prompts; lengths: [b].
        max_new_tokens: longest response, EOS included.
        eos_token_id: ends a response and is part of it.
        pad_token_id: fills what is not read.
        temperature: divides the logits.
        greedy: take the likeliest token instead of a sample.
        generator: source of randomness; results depend on it alone.
        batch_size: prompts decoded together; all by default.

    Raises:
        UserError: a prompt and its response could be longer than the model's context; logits that are no numbers.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if temperature <= 0 and not greedy:
        raise UserError(f"temperature must be positive, got {temperature}; greedy=True takes the likeliest token")
    check_context(model, int(lengths.max()) + max_new_tokens)
    count = input_ids.shape[0]
    response_ids = torch.full((count, max_new_tokens), pad_token_id, dtype=torch.long, device=input_ids.device)
    with generation_mode(model):
        order = torch.argsort(lengths, stable=True)
        for rows in torch.split(order, batch_size or count):
            _decode(
                model,
                input_ids,
                lengths,
                rows,
                response_ids,
                eos_token_id,
                pad_token_id,
                temperature,
                greedy,
                generator,
            )
    is_eos = response_ids == eos_token_id
    # A response ends with its first EOS; one without runs to the maximum.
    finished = is_eos.any(1)
    response_lengths = torch.where(finished, is_eos.int().argmax(1) + 1, max_new_tokens)
    longest = int(response_lengths.max())
    return Generation(response_ids[:, :longest], response_lengths, finished)


def _decode(
    model: nn.Module,
    input_ids: Tensor,
    lengths: Tensor,
    rows: Tensor,
    response_ids: Tensor,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float,
    greedy: bool,
    generator: torch.Generator | None,
) -> None:
    """Decode the given rows together, writing into ``response_ids``."""
    prompt_lengths = lengths[rows]
    width = int(prompt_lengths.max())
    offset = torch.arange(width, device=rows.device) - (width - prompt_lengths).unsqueeze(1)
    mask = offset >= 0
    tokens = input_ids[rows].gather(1, offset.clamp(min=0)).masked_fill(~mask, pad_token_id)
    positions = offset.clamp(min=0)
    padded = not bool(mask.all())
    cache = DynamicCache(config=model.config)  # type: ignore[arg-type]  # nn.Module does not declare config
    alive = torch.ones_like(rows, dtype=torch.bool)
    steps = response_ids.shape[1]
    remaining = len(rows)
    unfinished = any_rank if is_sharded(model) else bool
    for step in range(steps):
        if step == 0:
            logits = _read_prompts(model, tokens, positions, mask, cache)
        else:
            logits = next_logits(model, tokens, positions, mask if padded else None, cache)
        if remaining:  # else this process steps for the others' sake
            chosen = logits.argmax(-1) if greedy else _sample(logits / temperature, generator)
            response_ids[rows[alive], step] = chosen[alive]
            alive &= chosen != eos_token_id
            remaining = int(alive.sum())
        if step + 1 == steps or not unfinished(remaining > 0):
            return
        tokens, positions = chosen.unsqueeze(1), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
        # Moving the cache costs about one step, so rows leave once a fifth of the batch has ended.
        if remaining <= 0.8 * alive.numel() and alive.numel() > 1:
            kept = alive.nonzero().squeeze(1) if remaining else alive.new_zeros(1, dtype=torch.long)
            cache.batch_select_indices(kept)
            rows, tokens, positions, mask = rows[kept], tokens[kept], positions[kept], mask[kept]
            chosen, alive = chosen[kept], alive[kept]


def _sample(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    try:
        return sample_tokens(logits, generator=generator)
    except FloatingPointError as error:
        raise UserError(
            f"{error}: the model's weights have diverged or do not fit its dtype; lower module.learning_rate, or "
            "start from an earlier checkpoint, or set model.dtype=float32"
        ) from error


def _read_prompts(model: nn.Module, tokens: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """What :func:`next_logits` gives for prompts [b, p], of which the same one is read once and its cache copied."""
    told_apart = torch.where(mask, tokens, -1)  # a pad token may be a token of the prompt too
    different, place = torch.unique(told_apart, dim=0, return_inverse=True)
    if len(different) == len(tokens):
        return next_logits(model, tokens, positions, None if mask.all() else mask, cache)
    first = torch.full((len(different),), len(tokens), device=place.device)
    first.scatter_reduce_(0, place, torch.arange(len(tokens), device=place.device), "amin")
    own = mask[first]
    logits = next_logits(model, tokens[first], positions[first], None if own.all() else own, cache)
    cache.batch_select_indices(place)
    return logits[place]


def next_logits(
    model: nn.Module, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: DynamicCache
) -> Tensor:
    """Logits [b, v], float32, of what follows the tokens [b, n] that stand behind a cache of c earlier ones.

    Shapes:
        tokens, positions: [b, n]; mask: [b, c + n], bool, ``None`` if nothing is padding. The cache grows by n.
    """
    accepted = inspect.signature(model.forward).parameters
    arguments: dict[str, Any] = {"position_ids": positions} if "position_ids" in accepted else {}
    if "logits_to_keep" in accepted:
        arguments["logits_to_keep"] = 1
    if mask is not None:
        arguments["attention_mask"] = mask.long()
    output = model(input_ids=tokens, past_key_values=cache, use_cache=True, **arguments)
    logits: Tensor = output.logits[:, -1].float()
    return logits
