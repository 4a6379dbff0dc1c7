"""How well a reward model predicts what labelers prefer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lightning.data import Labeler, load_rows, pairs_from_ranks, read_comparison
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.judges import Judge
from rlhf_lightning.evaluation.win_rate import bootstrap_interval
from rlhf_lightning.models import RewardModelScorer

Pairs = Sequence[Sequence[tuple[int, int]]]
"""For each prompt its (better, worse) pairs of completions."""
Scores = Sequence[Sequence[float]]
"""For each prompt the scores of its completions."""


def evaluate_reward_model(
    scorer: RewardModelScorer,
    comparisons: str | Path,
    *,
    judge: Judge | None = None,
    labelers: Mapping[str, Labeler] | None = None,
    bins: int = 10,
) -> dict[str, Any]:
    """What a reward model is worth on held-out comparisons; accuracies are over pairs, ties in the labels skipped.

    Args:
        scorer: the reward model.
        comparisons: a comparisons file that it was not trained on.
        judge: its ``gold_reward`` is scored on the same labels: no reward model can be expected to do better.
        labelers: ``train`` gives a second opinion on the same completions, ``heldout`` one by labelers whose rankings
            no reward model was trained on. A labeler with a method ``agreement(rows, responses) -> float`` is asked for
            its own measure, since it can put the same question to two of its people; with ``agreement_counts``, which
            gives (equal, decided) pairs of each row, that has an interval.
        bins: of the calibration table.

    Returns:
        ``accuracy``, ``gold_accuracy`` and ``heldout_labeler_accuracy``, each with an ``..._interval`` (95 %, bootstrap
        over prompts), ``label_agreement`` (of two labelers, over the pairs that both rank strictly) and
        ``heldout_label_agreement``, with such intervals, too, ``pairs``, ``prompts`` and
        ``calibration``, see :func:`calibration_table`;
        ``None`` for what cannot be decided.
    """
    rows: list[dict[str, Any]] = list(load_rows(comparisons, fields=("prompt",)))
    parsed = [read_comparison(row, f"{comparisons}, row {index}") for index, row in enumerate(rows, 1)]
    responses = [comparison.responses for comparison in parsed]
    pairs = [comparison.pairs for comparison in parsed]
    flat_rows = [row for row, texts in zip(rows, responses, strict=True) for _ in texts]
    flat_responses = [text for texts in responses for text in texts]
    finished = [end for comparison in parsed for end in comparison.finished]
    found = scorer([row["prompt"] for row in flat_rows], flat_responses, finished)
    scores = _by_prompt(found.tolist(), responses)
    gold = None if judge is None else judge.assess(flat_rows, flat_responses).get("gold_reward")
    accuracy = pair_accuracy(scores, pairs)
    result: dict[str, Any] = {
        "accuracy": accuracy,
        "accuracy_interval": _interval(scores, pairs),
        "gold_accuracy": None if gold is None else pair_accuracy(_by_prompt(gold, responses), pairs),
        "gold_accuracy_interval": None if gold is None else _interval(_by_prompt(gold, responses), pairs),
        "heldout_labeler_accuracy": None,
        "heldout_labeler_accuracy_interval": None,
        "label_agreement": None,
        "label_agreement_interval": None,
        "heldout_label_agreement": None,
        "heldout_label_agreement_interval": None,
        "pairs": sum(len(group) for group in pairs),
        "prompts": len(rows),
        "calibration": calibration_table(scores, pairs, bins=bins),
    }
    for name, labeler in (labelers or {}).items():
        if name not in ("train", "heldout"):
            raise UserError(f"labelers.{name} is neither 'train' nor 'heldout': rename it")
        result |= _second_opinions(name, labeler, rows, responses, scores, pairs)
    return result


def pair_accuracy(scores: Scores, pairs: Pairs) -> float | None:
    """Share of pairs whose better completion has the higher score, equal scores counted as half; ``None`` without a
    pair."""
    correct, counts = _correct(scores, pairs)
    return sum(correct) / sum(counts) if sum(counts) else None


def pair_agreement(first: Pairs, second: Pairs) -> float | None:
    """Share of pairs on which two rankings of the same completions agree, over those that both rank strictly
    (InstructGPT, section 3.4); ``None`` if there is no such pair."""
    return _share(agreement_counts(first, second))[0]


def agreement_counts(first: Pairs, second: Pairs) -> list[tuple[int, int]]:
    """For each prompt, on how many pairs two rankings of its completions agree, and how many both rank strictly."""
    counts = []
    for one, other in zip(first, second, strict=True):
        strict = set(other)
        same = sum((better, worse) in strict for better, worse in one)
        counts.append((same, same + sum((worse, better) in strict for better, worse in one)))
    return counts


def calibration_table(scores: Scores, pairs: Pairs, *, bins: int = 10) -> list[dict[str, float]]:
    """Observed against predicted preference, by difference in score.

    The model predicts that the completion with the higher score is preferred with probability ``σ(|Δr|)``
    (InstructGPT, eq. 1). Pairs are put into ``bins`` bins of about as many pairs each, by |Δr|.

    Returns:
        For each bin ``low`` and ``high`` (the range of |Δr|), ``difference`` (its mean), ``predicted`` (mean of
        ``σ(|Δr|)``), ``observed`` (share in which the higher score was preferred) and ``pairs``.
    """
    signed = np.array([row[i] - row[j] for row, group in zip(scores, pairs, strict=True) for i, j in group])
    if signed.size == 0:
        return []
    signed = signed[np.argsort(np.abs(signed), kind="stable")]
    table = []
    for part in np.array_split(signed, min(bins, signed.size)):
        distance = np.abs(part)
        table.append(
            {
                "low": float(distance.min()),
                "high": float(distance.max()),
                "difference": float(distance.mean()),
                "predicted": float((1 / (1 + np.exp(-distance))).mean()),
                "observed": float(np.where(part == 0, 0.5, part > 0).mean()),
                "pairs": int(part.size),
            }
        )
    return table


def _second_opinions(
    name: str,
    labeler: Labeler,
    rows: Sequence[Mapping[str, Any]],
    responses: Sequence[Sequence[str]],
    scores: Scores,
    pairs: Pairs,
) -> dict[str, Any]:
    own: Callable[..., float] | None = getattr(labeler, "agreement", None)
    counts: Callable[..., list[tuple[int, int]]] | None = getattr(labeler, "agreement_counts", None)
    agreement: tuple[float | None, list[float] | None] = (None, None)
    if counts is not None:
        agreement = _share(counts(rows, responses))
    elif own is not None:
        agreement = (_number(own(rows, responses)), None)
    if name == "train" and (own is not None or counts is not None):
        return {"label_agreement": agreement[0], "label_agreement_interval": agreement[1]}
    labels = labeler(rows, responses)
    opinions = [pairs_from_ranks(label["ranks"]) for label in labels]
    if name == "heldout":
        return {
            "heldout_labeler_accuracy": pair_accuracy(scores, opinions),
            "heldout_labeler_accuracy_interval": _interval(scores, opinions),
            "heldout_label_agreement": agreement[0],
            "heldout_label_agreement_interval": agreement[1],
        }
    # Whoever ranked a row before agrees with themselves: that is no second opinion.
    others = [
        index
        for index, (row, label) in enumerate(zip(rows, labels, strict=True))
        if label.get("labeler") is None or label.get("labeler") != row.get("labeler")
    ]
    share, interval = _share(agreement_counts([pairs[i] for i in others], [opinions[i] for i in others]))
    return {"label_agreement": share, "label_agreement_interval": interval}


def _share(counts: Sequence[tuple[int, int]]) -> tuple[float | None, list[float] | None]:
    """Σ equal / Σ decided and its 95 % interval by bootstrap over prompts; ``None`` where nothing is decided."""
    known = [(same, decided) for same, decided in counts if decided]
    if not known:
        return None, None
    same, decided = [float(same) for same, _ in known], [float(decided) for _, decided in known]
    return sum(same) / sum(decided), list(bootstrap_interval(same, decided))


def _correct(scores: Scores, pairs: Pairs) -> tuple[list[float], list[int]]:
    """Per prompt: pairs in the right order (ties half), and all pairs."""
    correct = [
        sum(0.5 if row[i] == row[j] else float(row[i] > row[j]) for i, j in group)
        for row, group in zip(scores, pairs, strict=True)
    ]
    return correct, [len(group) for group in pairs]


def _interval(scores: Scores, pairs: Pairs) -> list[float] | None:
    correct, counts = _correct(scores, pairs)
    kept = [index for index, count in enumerate(counts) if count]
    if not kept:
        return None
    return list(bootstrap_interval([correct[index] for index in kept], [counts[index] for index in kept]))


def _by_prompt(values: Sequence[float], responses: Sequence[Sequence[str]]) -> list[list[float]]:
    remaining = iter(values)
    return [[float(next(remaining)) for _ in texts] for texts in responses]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
