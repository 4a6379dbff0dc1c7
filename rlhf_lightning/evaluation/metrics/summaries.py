"""ROUGE of a summary against its reference."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lightning.evaluation.metrics.extras import require

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge(
    answers: Sequence[str], references: Sequence[str], *, kinds: Sequence[str] = KINDS, stem: bool = False
) -> dict[str, list[float]]:
    """F-measures within 0 and 1, one for each answer, by kind: of shared unigrams (``rouge1``), of bigrams (``rouge2``)
    and of the longest common subsequence (``rougeL``) (Lin 2004).

    Args:
        answers, references: one reference for each answer; a vertical bar in one separates nothing.
        kinds: which of the three.
        stem: compare the stems of words (Porter), as ROUGE's own script can.

    Raises:
        ValueError: not one reference for each answer.
        UserError: rouge_score is not installed.
    """
    if len(answers) != len(references):
        raise ValueError(f"ROUGE needs one reference for each answer, got {len(answers)} and {len(references)}")
    scorer = require("rouge_score.rouge_scorer", "rouge_score").RougeScorer(list(kinds), use_stemmer=stem)
    found = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    return {kind: [float(scores[kind].fmeasure) for scores in found] for kind in kinds}
