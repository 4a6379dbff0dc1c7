"""Responses of a model to the prompts of an evaluation."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import context_length, generate

T = TypeVar("T")


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
    stop = encoder.eos_token_id if prefix is None else newline_token(encoder)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    response_ids: list[list[int]] = [[] for _ in prompts]
    batches = batches_by_length([len(ids) for ids in prompt_ids], batch_size)
    for rows in with_progress(batches, f"{label} answers"):
        found = decode(
            model,
            encoder,
            [prompt_ids[row] for row in rows],
            max_new_tokens=max_new_tokens,
            stop=stop,
            temperature=temperature,
            greedy=greedy,
            generator=generator,
        )
        for row, ids in zip(rows, found, strict=True):
            response_ids[row] = ids
    if prefix is None:
        responses = [encoder.decode(ids) for ids in response_ids]
        finished = [encoder.eos_token_id in ids for ids in response_ids]
        return Samples(responses, finished, prompt_ids, response_ids)
    cuts = [until_newline(encoder, ids) for ids in response_ids]
    return Samples([text for text, _, _ in cuts], [end for _, end, _ in cuts], prompt_ids, [ids for _, _, ids in cuts])


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Rows in batches of neighbours in length, shortest first."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def with_progress(batches: Sequence[T], label: str) -> Iterator[T]:
    """The batches one by one, with a progress bar on a terminal where there are several."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=len(batches) < 3 or not console.is_terminal) as progress:
        yield from progress.track(batches, description=label)


def decode(
    model: nn.Module,
    encoder: Encoder,
    prompt_ids: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop: int,
    temperature: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Ids of a response to each prompt, up to and with the token ``stop``."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
    input_ids = torch.full((len(prompt_ids), int(lengths.max())), encoder.pad_token_id, device=device)
    for line, ids in zip(input_ids, prompt_ids, strict=True):
        line[: len(ids)] = torch.tensor(ids)
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
    found, ends = generation.response_ids.tolist(), generation.lengths.tolist()
    return [ids[:end] for ids, end in zip(found, ends, strict=True)]


def until_newline(encoder: Encoder, ids: list[int]) -> tuple[str, bool, list[int]]:
    """The text before the first newline or EOS, whether there is one, and the ids up to and with it."""
    finished = encoder.eos_token_id in ids
    if finished:
        ids = ids[: ids.index(encoder.eos_token_id) + 1]
    text = encoder.decode(ids)
    if "\n" not in text:
        return text, finished, ids
    end = bisect.bisect_left(range(len(ids)), True, key=lambda end: "\n" in encoder.decode(ids[:end]))
    return text.split("\n")[0], True, ids[:end]


def newline_token(encoder: Encoder) -> int:
    """The token to stop decoding at: a newline of its own, else EOS (the text is cut all the same)."""
    ids = encoder.response("\n", finished=False)[-1:]
    return ids[0] if ids and encoder.decode(ids) == "\n" else encoder.eos_token_id


def _refuse_overlong(model: nn.Module, prompt_ids: list[list[int]], max_new_tokens: int) -> None:
    context = context_length(model)
    longest = max(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
    tokens = len(prompt_ids[longest])
    if context is not None and tokens + max_new_tokens > context:
        raise UserError(
            f"prompt {longest + 1} has {tokens} tokens, which with max_new_tokens={max_new_tokens} is more than the "
            f"model's context of {context}: shorten the prompt (or the few-shot prefix) or lower max_new_tokens"
        )
