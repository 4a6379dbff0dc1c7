"""Corpus BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_lightning.evaluation.metrics.extras import require


class Bleu(NamedTuple):
    """Corpus BLEU within 0 and 100 and its 95 % interval by bootstrap over sentences."""

    score: float
    low: float
    high: float


def corpus_bleu(answers: Sequence[str], references: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Bleu:
    """BLEU of a corpus, ``BP · exp(¼ Σ_n log p_n)`` (Papineni et al. 2002), as sacrebleu computes it: tokenizer 13a,
    case kept, exponential smoothing (Post 2018).

    n-grams are counted over the whole corpus, so that it is no mean over sentences; the interval draws sentences with
    replacement and adds up their counts.

    Raises:
        ValueError: no sentences, or not one reference for each.
        UserError: sacrebleu is not installed.
    """
    if not answers or len(answers) != len(references):
        raise ValueError(f"BLEU needs one reference for each answer, got {len(answers)} and {len(references)}")
    bleu: Any = require("sacrebleu").BLEU()
    score = float(bleu.corpus_score(list(answers), [list(references)]).score)
    # With the effective order sacrebleu counts the same and does not warn of every sentence; its scores are not used.
    single: Any = require("sacrebleu").BLEU(effective_order=True)
    parts = [single.sentence_score(answer, [reference]) for answer, reference in zip(answers, references, strict=True)]
    counts = np.array([[*part.counts, *part.totals, part.sys_len, part.ref_len] for part in parts])
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        total = [int(value) for value in counts[generator.integers(0, len(parts), len(parts))].sum(0)]
        order = (len(total) - 2) // 2
        drawn.append(bleu.compute_bleu(total[:order], total[order:-2], total[-2], total[-1], smooth_method="exp").score)
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (score, score)
    return Bleu(score, float(low), float(high))
