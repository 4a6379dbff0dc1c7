"""What several judges say of several models, of each other and of people's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.evaluation.judges import Judge, Rows
from rlhf_lightning.evaluation.label_agreement import label_agreement
from rlhf_lightning.evaluation.preference import (
    ask_all_pairs,
    summarize_preferences,
    verdicts_of_scores,
    write_verdicts,
)

LABELED_ROWS = 200
"""So many of the held-out comparisons are shown to each judge."""


def ask_judges(
    judges: Mapping[str, Judge],
    rows: Rows,
    responses: Mapping[str, list[str]],
    *,
    anchor: str,
    out: str | Path,
    scores: Mapping[str, Sequence[float]] | None = None,
    comparisons: str | None = None,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Have every two models compared by every judge, and every judge by the labels of held-out comparisons.

    Args:
        judges: by name.
        rows: of the prompts.
        responses: by model, one to each row.
        anchor: the model whose rating is 0.
        out: folder for ``preferences.jsonl``.
        scores: by model those of a reward model, which joins as the judge ``reward_model``.
        comparisons: a comparisons file; its first :data:`LABELED_ROWS` rows are used.
        seed: of the orders and the bootstraps.

    Returns:
        See :func:`~rlhf_lightning.evaluation.summarize_preferences`; each of ``judges`` has ``labels``, what
        :func:`~rlhf_lightning.evaluation.label_agreement` found, in addition. ``None`` without judges or models.
    """
    if not judges or len(responses) < 2:
        return None
    verdicts = {name: ask_all_pairs(judge, rows, responses, seed=seed) for name, judge in judges.items()}
    if scores is not None:
        verdicts["reward_model"] = verdicts_of_scores(scores)
    write_verdicts(verdicts, out)
    found = summarize_preferences(verdicts, anchor=anchor, seed=seed)
    if comparisons is not None:
        for name, judge in judges.items():
            found["judges"][name]["labels"] = label_agreement(judge, comparisons, limit=LABELED_ROWS, seed=seed)
    return found
