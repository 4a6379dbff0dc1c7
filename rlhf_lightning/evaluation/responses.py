"""What is known of a model's responses, as means, as a file and as a sample table."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_lightning.data import write_rows
from rlhf_lightning.evaluation.sampling import Samples
from rlhf_lightning.evaluation.win_rate import WinRate, bootstrap_interval, share_interval, win_rate

# A report has these keys whether or not the judge can decide them.
ALWAYS = ("gold_reward", "instruction_followed", "truthful", "rude", "likert")


class Responses(NamedTuple):
    """The responses of one model to p prompts, and what was found out about each.

    Shapes: all lists have p entries. ``scores`` is ``None`` without a reward model; ``preferences`` are over the
    baseline's responses; ``assessed`` are the judge's metrics by name.
    """

    samples: Samples
    kl: list[float]
    scores: list[float] | None
    preferences: list[float]
    assessed: dict[str, list[float]]

    def rates(self) -> list[str]:
        """The metrics that are a yes or a no for each response."""
        found = [
            name
            for name, values in self.assessed.items()
            if {value for value in values if not _undecided(value)} in ({0.0}, {1.0}, {0.0, 1.0})
        ]
        return [*found, "eos_rate"]


def summarize(responses: Responses, *, baseline: str, pretrain_loss: float | None, seed: int = 0) -> dict[str, Any]:
    """Means over prompts, by the names of ``report.json``; ``None`` for what was not or cannot be decided."""
    rate = win_rate(responses.preferences, seed=seed)
    if set(responses.preferences) == {0.5} and not any(responses.kl):
        rate = WinRate(0.5, 0.5, 0.5)  # the baseline against itself, by definition
    return {
        f"win_rate_vs_{baseline}": rate.mean,
        "win_rate_interval": [rate.low, rate.high],
        "gold_reward": None,
        "proxy_reward": None if responses.scores is None else _mean(responses.scores),
        "kl": _mean(responses.kl),
        "pretrain_loss": pretrain_loss,
        "eos_rate": _mean([float(end) for end in responses.samples.finished]),
        "response_length": _mean([float(len(ids)) for ids in responses.samples.response_ids]),
        **dict.fromkeys(ALWAYS),
        **{name: _mean(values) for name, values in responses.assessed.items()},
    }


def intervals(
    responses: Responses, *, text_losses: Sequence[tuple[float, int]] | None, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % bootstrap intervals of the means of :func:`summarize`, over prompts, and of the loss over blocks of text.

    Args:
        text_losses: for each block its summed loss and its number of labels.
    """
    measured: dict[str, Sequence[float | None]] = {
        "kl": responses.kl,
        "eos_rate": [float(end) for end in responses.samples.finished],
        "response_length": [float(len(ids)) for ids in responses.samples.response_ids],
        **responses.assessed,
    }
    if responses.scores is not None:
        measured["proxy_reward"] = responses.scores
    shares = responses.rates()
    found: dict[str, list[float] | None] = {}
    for name, values in measured.items():
        known = [float(value) for value in values if value is not None and not _undecided(value)]
        interval = share_interval if name in shares else bootstrap_interval
        found[name] = list(interval(known, seed=seed)) if known else None
    if text_losses:
        totals, counts = zip(*text_losses, strict=True)
        found["pretrain_loss"] = list(bootstrap_interval(totals, counts, seed=seed))
    return found


def write_samples(responses: Responses, rows: Sequence[Mapping[str, Any]], name: str, out: str | Path) -> Path:
    """Write ``samples_<name>.jsonl``: prompt, response, finished, tokens, kl, score, preference and the judge's
    metrics, one row for each prompt."""
    path = Path(out) / f"samples_{name}.jsonl"
    write_rows(path, [{"prompt": row["prompt"], **_entry(responses, index)} for index, row in enumerate(rows)])
    return path


def sample_table(
    results: Mapping[str, Responses], prompts: Sequence[str], *, count: int = 8, seed: int = 0
) -> list[dict[str, Any]]:
    """``count`` prompts drawn by the seed, not chosen, each with what every model answered."""
    drawn = sorted(random.Random(f"samples {seed}").sample(range(len(prompts)), min(count, len(prompts))))
    return [
        {"prompt": prompts[index], "responses": {name: _entry(result, index) for name, result in results.items()}}
        for index in drawn
    ]


def _entry(responses: Responses, index: int) -> dict[str, Any]:
    samples = responses.samples
    return {
        "response": samples.responses[index],
        "finished": samples.finished[index],
        "tokens": len(samples.response_ids[index]),
        "kl": responses.kl[index],
        "score": None if responses.scores is None else responses.scores[index],
        "preference": responses.preferences[index],
        **{
            name: None if _undecided(values[index]) else float(values[index])
            for name, values in responses.assessed.items()
        },
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of what was decided."""
    known = [float(value) for value in values if value is not None and not _undecided(value)]
    return sum(known) / len(known) if known else None


def _undecided(value: float | None) -> bool:
    return value is None or math.isnan(value)
