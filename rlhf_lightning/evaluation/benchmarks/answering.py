"""A model's answers to a task: written greedily up to the first newline, or chosen by probability."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.store import Store, key_of
from rlhf_lightning.evaluation.benchmarks.task import Choice, Task
from rlhf_lightning.evaluation.divergence import sequence_logprobs
from rlhf_lightning.evaluation.loaded import LoadedModel
from rlhf_lightning.evaluation.sampling import batches_by_length, decode, newline_token, with_progress
from rlhf_lightning.models import context_length


class Answered(NamedTuple):
    """Per question its samples or :class:`Choice`s, and how many prompts were cut to the model's context."""

    answers: list[list[Any]]
    cut: int
    key: str


def cut_at_newline(text: str) -> str:
    """What stands before the first newline, without the spaces that it starts with, as in the released samples."""
    return text.split("\n", 1)[0].lstrip(" ")


def check_newline(name: str, encoder: Encoder) -> None:
    """Refuse a tokenizer that cannot write what prompts are made of and where answers end.

    Raises:
        UserError: no newline comes back.
    """
    if "\n" not in encoder.decode(encoder.response("a\nb", finished=False)):
        raise UserError(
            f"models.{name}: the tokenizer has no token for a newline, at which answers end and of which prompts are "
            "made: take a model whose tokenizer has one"
        )


def answer(
    task: Task,
    prompt_type: str,
    loaded: LoadedModel,
    *,
    fingerprint: str,
    prefix: str = "",
    store: str | Path,
    batch_size: int = 32,
    seed: int = 0,
    label: str = "model",
) -> Answered:
    """A model's answers to all questions of a task under one prompt type; those in the ``store`` are not made again.

    Everything is plain text: no chat template. A prompt that leaves no room in the model's context loses its beginning.

    Args:
        fingerprint: of the model, for the key of the store.
        prefix: few-shot examples before every prompt.
        store: the folder of answers.
        batch_size: texts that are read together, neighbours in length.
        seed: of answers that are drawn (``task.samples`` above 1).
        label: what the progress bar says.

    Raises:
        UserError: a choice that is longer than the model's context.
    """
    encoder, context = loaded.encoder, context_length(loaded.model)
    texts = [prefix + question.prompts[prompt_type] for question in task.questions]
    prompts = [encoder.document(text, eos=False) for text in texts]
    rows: list[tuple[list[int], list[int]]] = []
    if task.max_new_tokens is None:
        for question, text, ids in zip(task.questions, texts, prompts, strict=True):
            rows += [(ids, _continuation(encoder, text, ids, choice)) for choice in question.choices]
    else:
        rows = [(ids, []) for ids in prompts for _ in range(task.samples)]
    room = task.max_new_tokens or 0
    fitted = [_fitted(task.name, prompt, ids, encoder, context, room) for prompt, ids in rows]
    cut = sum(len(prompt) < len(whole) for prompt, (whole, _) in zip(fitted, rows, strict=True))
    sampled = task.samples > 1
    key = key_of(
        model=fingerprint,
        tokenizer=encoder.fingerprint(),
        dtype=str(next(loaded.model.parameters()).dtype),
        task=task.name,
        max_new_tokens=task.max_new_tokens,
        texts=hashlib.sha256(repr([(p, ids) for p, (_, ids) in zip(fitted, rows, strict=True)]).encode()).hexdigest(),
        drawn=[seed, batch_size] if sampled else None,
    )
    kept = Store(store, key)
    # Cut the same way in every call: what is drawn for a batch depends on its number.
    lengths = [len(prompt) + len(ids) for prompt, (_, ids) in zip(fitted, rows, strict=True)]
    batches = list(enumerate(batches_by_length(lengths, batch_size)))
    left = [(number, batch) for number, batch in batches if any(row not in kept.known for row in batch)]
    for number, batch in with_progress(left, label):
        parts = [fitted[row] for row in batch]
        if task.max_new_tokens is None:
            found: Sequence[Any] = _choices(loaded, parts, [rows[row][1] for row in batch])
        else:
            found = _lines(loaded.model, encoder, parts, task.max_new_tokens, sampled, f"{seed} {key} {number}")
        kept.add(dict(zip(batch, found, strict=True)))
    flat = [kept.known[row] for row in range(len(rows))]
    if task.max_new_tokens is None:
        flat = [Choice(*value) for value in flat]
    remaining = iter(flat)
    each = [len(q.choices) if task.max_new_tokens is None else task.samples for q in task.questions]
    return Answered([[next(remaining) for _ in range(count)] for count in each], cut, key)


def _lines(
    model: nn.Module, encoder: Encoder, prompt_ids: list[list[int]], longest: int, sampled: bool, seed: str
) -> list[str]:
    device = next(model.parameters()).device
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big")
    found = decode(
        model,
        encoder,
        prompt_ids,
        max_new_tokens=longest,
        stop=newline_token(encoder),
        greedy=not sampled,
        generator=torch.Generator(device).manual_seed(number),
    )
    return [cut_at_newline(encoder.decode(ids)) for ids in found]


def _choices(loaded: LoadedModel, prompts: list[list[int]], choices: list[list[int]]) -> list[list[float]]:
    totals = sequence_logprobs(loaded.logprobs, prompts, choices, batch_size=len(prompts))
    return [[float(total), len(ids)] for total, ids in zip(totals, choices, strict=True)]


def _continuation(encoder: Encoder, text: str, prompt: list[int], choice: str) -> list[int]:
    """Ids of a choice as they stand behind the prompt; of both together where the prompt's own ids stay, because some
    tokenizers begin every text of its own with a space."""
    whole = encoder.document(text + choice, eos=False)
    if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
        return whole[len(prompt) :]
    return encoder.response(choice, finished=False)


def _fitted(
    name: str, prompt: list[int], ids: list[int], encoder: Encoder, context: int | None, room: int
) -> list[int]:
    """The prompt with something in front of the first token that is scored, cut to the context from the left."""
    # A tokenizer without BOS: EOS is what stands between documents.
    prompt = prompt or [encoder.eos_token_id]
    most = len(prompt) if context is None else context - len(ids) - room
    if most < 1:
        raise UserError(
            f"benchmarks.{name}: {len(ids) + room} tokens leave no room for a prompt in the model's context of "
            f"{context}: leave the benchmark out or lower max_new_tokens"
        )
    if len(prompt) <= most:
        return prompt
    start = prompt[:1] if prompt[0] == encoder.bos_token_id and most > 1 else []
    return start + prompt[len(prompt) - (most - len(start)) :]
