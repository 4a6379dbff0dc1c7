"""How far a judge agrees with people who labeled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.data import load_rows, read_comparison
from rlhf_lightning.evaluation.judges import Judge
from rlhf_lightning.evaluation.preference import judge_in_random_order
from rlhf_lightning.evaluation.win_rate import bootstrap_interval


def label_agreement(
    judge: Judge, comparisons: str | Path, *, limit: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Show a judge labeled pairs, in random order, and count how often it prefers what the labeler preferred.

    Its own ties are counted apart: of the decided pairs the share that agrees is comparable with the agreement of two
    labelers (InstructGPT, section 3.4: 72.6 ± 1.5 % of training labelers, 77.3 ± 1.3 % of held-out ones).

    Args:
        judge: whom to ask.
        comparisons: a comparisons file.
        limit: so many of its rows, from the first; all by default.
        seed: of the order in which a pair is shown.

    Returns:
        ``agreement`` and its ``interval`` (95 %, bootstrap over prompts), ``decided`` pairs, ``ties``, all ``pairs``.
    """
    rows: list[dict[str, Any]] = list(load_rows(comparisons, fields=("prompt",)))[:limit]
    parsed = [read_comparison(row, f"{comparisons}, row {index}") for index, row in enumerate(rows, 1)]
    asked = [
        (number, comparison.responses[better], comparison.responses[worse])
        for number, comparison in enumerate(parsed)
        for better, worse in comparison.pairs
    ]
    said = judge_in_random_order(
        judge, [rows[n] for n, _, _ in asked], [a for _, a, _ in asked], [b for _, _, b in asked], seed=seed
    ).preferences
    right, decided = [0.0] * len(rows), [0.0] * len(rows)
    for (number, _, _), value in zip(asked, said, strict=True):
        if value != 0.5:
            decided[number] += 1
            right[number] += value > 0.5
    total = sum(decided)
    return {
        "agreement": sum(right) / total if total else None,
        "interval": list(_interval(right, decided, seed)) if total else None,
        "decided": int(total),
        "ties": len(asked) - int(total),
        "pairs": len(asked),
    }


def _interval(right: Sequence[float], decided: Sequence[float], seed: int) -> tuple[float, float]:
    kept = [number for number, count in enumerate(decided) if count]
    return bootstrap_interval([right[n] for n in kept], [decided[n] for n in kept], seed=seed)
