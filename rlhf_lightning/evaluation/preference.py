"""Who is preferred by whom: every two models, before several judges, in an order that favours none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from rlhf_lightning.data import write_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.bradley_terry import rate_models
from rlhf_lightning.evaluation.judges import Judge, Rows
from rlhf_lightning.evaluation.win_rate import bootstrap_interval, win_rate

Pair = tuple[str, str]


class Verdicts(NamedTuple):
    """What a judge said of two responses to each of p prompts.

    ``preferences``: [p], 1 where the first model won, ½ for a tie, 0 where the second did. ``first_shown``: [p],
    whether the first model's response was shown first.
    """

    preferences: list[float]
    first_shown: list[bool]


def judge_in_random_order(
    judge: Judge, rows: Rows, first: list[str], second: list[str], *, seed: int | str
) -> Verdicts:
    """Ask a judge about two responses to each row, either shown first by the toss of a coin.

    A judge who favours what stands on the left then favours neither model: the expected win rate of two equal ones is
    ½. The verdicts are turned back.

    Args:
        seed: of the coin; equal seeds show equal orders.

    Raises:
        UserError: verdicts that are not one number within 0 and 1 for each row.
    """
    coin = Random(f"order {seed}")
    straight = [coin.random() < 0.5 for _ in rows]
    left = [a if kept else b for a, b, kept in zip(first, second, straight, strict=True)]
    right = [b if kept else a for a, b, kept in zip(first, second, straight, strict=True)]
    said = [float(value) for value in judge.prefer(rows, left, right)]
    if len(said) != len(rows) or not all(0 <= value <= 1 for value in said):
        raise UserError(
            f"the judge {type(judge).__name__} gave {len(said)} verdicts for {len(rows)} pairs, of which some may lie "
            "outside 0 to 1: prefer must return 1 (left), 0.5 (tie) or 0 (right) for each"
        )
    return Verdicts([value if kept else 1 - value for value, kept in zip(said, straight, strict=True)], straight)


def ask_all_pairs(judge: Judge, rows: Rows, responses: Mapping[str, list[str]], *, seed: int) -> dict[Pair, Verdicts]:
    """Verdicts on every two of the models; each pair has an order of its own."""
    return {
        pair: judge_in_random_order(
            judge, rows, responses[pair[0]], responses[pair[1]], seed=f"{seed} {' '.join(pair)}"
        )
        for pair in combinations(responses, 2)
    }


def verdicts_of_scores(scores: Mapping[str, Sequence[float]]) -> dict[Pair, Verdicts]:
    """Verdicts of a score that is known already, such as a reward model's: the higher one wins, equal ones tie."""
    return {
        (a, b): Verdicts(
            [0.5 if x == y else float(x > y) for x, y in zip(scores[a], scores[b], strict=True)],
            [True] * len(scores[a]),
        )
        for a, b in combinations(scores, 2)
    }


def summarize_preferences(
    verdicts: Mapping[str, Mapping[Pair, Verdicts]], *, anchor: str, seed: int = 0
) -> dict[str, Any]:
    """What several judges found, in the terms of ``report.json``.

    Args:
        verdicts: by judge and pair, on the same prompts.
        anchor: the model whose rating is 0.
        seed: of the bootstraps.

    Returns:
        ``judges``: by name ``pairs`` (``first``, ``second``, ``win_rate`` of the first and ``interval``), ``ratings``
        (by model, see :func:`~rlhf_lightning.evaluation.rate_models`) and ``first_shown_won`` (share of strict verdicts
        for the response that was shown first, near ½ without a position bias; ``None`` where the order is not seen).
        ``agreement``: for every two judges the share of equal verdicts where both are strict, its interval and number.
    """
    found: dict[str, Any] = {"judges": {}, "agreement": []}
    for judge, pairs in verdicts.items():
        lines = []
        for (first, second), said in pairs.items():
            rate = win_rate(said.preferences, seed=seed)
            lines.append({"first": first, "second": second, "win_rate": rate.mean, "interval": [rate.low, rate.high]})
        ratings = rate_models({pair: said.preferences for pair, said in pairs.items()}, anchor=anchor, seed=seed)
        found["judges"][judge] = {
            "pairs": lines,
            "ratings": {name: rating._asdict() for name, rating in ratings.items()},
            "first_shown_won": _first_shown_won(pairs),
        }
    for one, other in combinations(verdicts, 2):
        found["agreement"].append({"judges": [one, other], **_agreement(verdicts[one], verdicts[other], seed)})
    return found


def write_verdicts(verdicts: Mapping[str, Mapping[Pair, Verdicts]], out: str | Path) -> Path:
    """Write ``preferences.jsonl``: by judge, pair and prompt (``row``, from 0) the ``preference`` for ``first``."""
    path = Path(out) / "preferences.jsonl"
    write_rows(
        path,
        (
            {"judge": judge, "first": first, "second": second, "row": row, "preference": value, "first_shown": shown}
            for judge, pairs in verdicts.items()
            for (first, second), said in pairs.items()
            for row, (value, shown) in enumerate(zip(said.preferences, said.first_shown, strict=True))
        ),
    )
    return path


def _first_shown_won(pairs: Mapping[Pair, Verdicts]) -> float | None:
    if all(all(said.first_shown) for said in pairs.values()):
        return None
    strict = [
        (value > 0.5) == first
        for said in pairs.values()
        for value, first in zip(said.preferences, said.first_shown, strict=True)
        if value != 0.5
    ]
    return sum(strict) / len(strict) if strict else None


def _agreement(one: Mapping[Pair, Verdicts], other: Mapping[Pair, Verdicts], seed: int) -> dict[str, Any]:
    """Over all pairs that both judged; the prompts are the units of the bootstrap."""
    shared = [pair for pair in one if pair in other]
    prompts = len(one[shared[0]].preferences) if shared else 0
    same, counts = [0] * prompts, [0] * prompts
    for pair in shared:
        for row, (x, y) in enumerate(zip(one[pair].preferences, other[pair].preferences, strict=True)):
            if x != 0.5 and y != 0.5:
                counts[row] += 1
                same[row] += (x > 0.5) == (y > 0.5)
    total = sum(counts)
    if not total:
        return {"share": None, "interval": None, "pairs": 0}
    interval = list(bootstrap_interval(same, counts, seed=seed))
    return {"share": sum(same) / total, "interval": interval, "pairs": total}
