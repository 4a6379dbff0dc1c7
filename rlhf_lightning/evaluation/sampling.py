"""Responses of a model to the prompts of an evaluation."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import context_length, generate


class Samples(NamedTuple):
    """What a model read and wrote, one entry for each prompt, in the order of the prompts.

    ``response_ids`` end with EOS (after a few-shot prefix: with the token of the newline) where ``finished``.
    """

    responses: list[str]
    finished: list[bool]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]


def sample_responses(
    model: nn.Module,
    encoder: Encoder,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    prefix: str | None = None,
    label: str = "model",
) -> Samples:
    """Sample one response to each prompt.

    Args:
        model: a causal language model.
        encoder: its encoder.
        max_new_tokens: longest response, its end included.
        temperature, greedy: as in :func:`~rlhf_lightning.models.generate`.
        seed: the responses depend on it and on ``batch_size`` alone.
        batch_size: prompts decoded together, neighbours in length.
        prefix: few-shot examples for a model that follows no instructions. It reads ``prefix + prompt + "\\n"`` as
            plain text, without a chat template, and its response ends at the first newline.
        label: what the progress bar says is answering.

    Raises:
        UserError: no prompts, or a prompt that leaves no room for the response in the model's context.
    """
    if not prompts:
        raise UserError("there is no prompt to answer: give a prompts file with rows")
    if prefix is None:
        prompt_ids = [encoder.prompt(prompt) for prompt in prompts]
    else:
        prompt_ids = [encoder.document(f"{prefix}{prompt}\n", eos=False) for prompt in prompts]
    _refuse_overlong(model, prompt_ids, max_new_tokens)
    stop = encoder.eos_token_id if prefix is None else _newline(encoder)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    response_ids: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(prompt_ids[row]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=len(batches) < 3 or not console.is_terminal) as progress:
        for rows in progress.track(batches, description=f"{label} answers"):
            lengths = torch.tensor([len(prompt_ids[row]) for row in rows], device=device)
            input_ids = torch.full((len(rows), int(lengths.max())), encoder.pad_token_id, device=device)
            for line, row in zip(input_ids, rows, strict=True):
                line[: len(prompt_ids[row])] = torch.tensor(prompt_ids[row])
            generation = generate(
                model,
                input_ids,
                lengths,
                max_new_tokens=max_new_tokens,
                eos_token_id=stop,
                pad_token_id=encoder.pad_token_id,
                temperature=temperature,
                greedy=greedy,
                generator=generator,
            )
            ids, ends = generation.response_ids.tolist(), generation.lengths.tolist()
            for row, line_ids, end in zip(rows, ids, ends, strict=True):
                response_ids[row] = line_ids[:end]
    if prefix is None:
        responses = [encoder.decode(ids) for ids in response_ids]
        finished = [encoder.eos_token_id in ids for ids in response_ids]
        return Samples(responses, finished, prompt_ids, response_ids)
    cuts = [_until_newline(encoder, ids) for ids in response_ids]
    return Samples([text for text, _, _ in cuts], [end for _, end, _ in cuts], prompt_ids, [ids for _, _, ids in cuts])


def _until_newline(encoder: Encoder, ids: list[int]) -> tuple[str, bool, list[int]]:
    """The text before the first newline or EOS, whether there is one, and the ids up to and with it."""
    finished = encoder.eos_token_id in ids
    if finished:
        ids = ids[: ids.index(encoder.eos_token_id) + 1]
    text = encoder.decode(ids)
    if "\n" not in text:
        return text, finished, ids
    end = bisect.bisect_left(range(len(ids)), True, key=lambda end: "\n" in encoder.decode(ids[:end]))
    return text.split("\n")[0], True, ids[:end]


def _newline(encoder: Encoder) -> int:
    """The token to stop decoding at: a newline of its own, else EOS (the text is cut all the same)."""
    ids = encoder.response("\n", finished=False)
    return ids[0] if len(ids) == 1 and encoder.decode(ids) == "\n" else encoder.eos_token_id


def _refuse_overlong(model: nn.Module, prompt_ids: list[list[int]], max_new_tokens: int) -> None:
    context = context_length(model)
    longest = max(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
    tokens = len(prompt_ids[longest])
    if context is not None and tokens + max_new_tokens > context:
        raise UserError(
            f"prompt {longest + 1} has {tokens} tokens, which with max_new_tokens={max_new_tokens} is more than the "
            f"model's context of {context}: shorten the prompt (or the few-shot prefix) or lower max_new_tokens"
        )
