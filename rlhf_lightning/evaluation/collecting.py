"""Collecting rankings: K sampled responses for each prompt, ranked by a labeler."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhf_lightning.data import Encoder, Labeler, load_rows, pairs_from_ranks, write_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.sampling import sample_responses
from rlhf_lightning.models import check_vocabulary, warn_of_ignored_sampling


def collect_comparisons(
    *,
    policy: Callable[[], nn.Module],
    encoder: Encoder,
    prompts: str,
    labeler: Labeler,
    out: str | Path,
    responses_per_prompt: int | Sequence[int] = (4, 9),
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    batch_size: int = 128,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Sample responses, have them ranked, and write the file that a reward model trains on.

    Args:
        policy: makes the model that answers.
        encoder: of that model.
        prompts: file of rows {"prompt"}; further columns reach the labeler.
        labeler: ranks the responses of each row.
        out: a ``.jsonl`` file, or a folder that gets ``comparisons.jsonl``.
        responses_per_prompt: K, or the smallest and largest, drawn evenly for each prompt (the paper: 4 to 9).
        max_new_tokens, temperature, batch_size: of the sampling.
        limit: at most so many prompts.
        seed: of K and of the sampling.

    Returns:
        prompts, responses, comparisons (pairs without ties) and ties.

    Raises:
        UserError: K below 2, no prompts, a labeler whose ranks do not fit the responses.
    """
    span = [responses_per_prompt] if isinstance(responses_per_prompt, int) else list(responses_per_prompt)
    smallest, largest = int(span[0]), int(span[-1])
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit} must be at least 1 prompt; null takes all")
    if smallest < 2 or largest < smallest:
        raise UserError(f"responses_per_prompt={span}: a comparison needs K of at least 2, smallest first")
    rows = list(load_rows(prompts, fields=("prompt",)))[:limit]
    draw = random.Random(seed)
    counts = [draw.randint(smallest, largest) for _ in rows]
    model = policy()
    check_vocabulary(model, encoder, role="policy")
    warn_of_ignored_sampling(model)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    samples = sample_responses(
        model,
        encoder,
        [row["prompt"] for row, count in zip(rows, counts, strict=True) for _ in range(count)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        label="collecting",
    )
    texts = _grouped(samples.responses, counts)
    finished = _grouped(samples.finished, counts)
    labels = labeler(rows, texts)
    pairs = 0
    for number, (label, own) in enumerate(zip(labels, texts, strict=True), 1):
        if len(label.get("ranks", ())) != len(own):
            raise UserError(
                f"the labeler gave ranks {label.get('ranks')} for the {len(own)} responses of row {number} of "
                f"{prompts}; "
                'it must return {"ranks": [one number for each response]}'
            )
        pairs += len(pairs_from_ranks(label["ranks"]))
    file = Path(out) if str(out).endswith(".jsonl") else Path(out) / "comparisons.jsonl"
    write_rows(
        file,
        (
            {**row, "responses": own, "finished": ends, **label}
            for row, own, ends, label in zip(rows, texts, finished, labels, strict=True)
        ),
    )
    possible = sum(count * (count - 1) // 2 for count in counts)
    return {"prompts": len(rows), "responses": sum(counts), "comparisons": pairs, "ties": possible - pairs}


def _grouped(flat: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    remaining = iter(flat)
    return [[next(remaining) for _ in range(count)] for count in counts]
