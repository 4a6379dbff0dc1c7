"""Metrics of the paper's automatic evaluations: pure functions over texts and numbers."""

from rlhf_lightning.evaluation.metrics.answers import (
    alternatives,
    best,
    drop_exact,
    drop_f1,
    normalized,
    squad_exact,
    squad_f1,
)
from rlhf_lightning.evaluation.metrics.choices import choice_entropy, choice_probabilities, likeliest
from rlhf_lightning.evaluation.metrics.correlation import correlation
from rlhf_lightning.evaluation.metrics.extras import require
from rlhf_lightning.evaluation.metrics.rates import toxicity, truthfulness
from rlhf_lightning.evaluation.metrics.summaries import rouge
from rlhf_lightning.evaluation.metrics.translation import Bleu, corpus_bleu

__all__ = [
    "Bleu",
    "alternatives",
    "best",
    "choice_entropy",
    "choice_probabilities",
    "corpus_bleu",
    "correlation",
    "drop_exact",
    "drop_f1",
    "likeliest",
    "normalized",
    "require",
    "rouge",
    "squad_exact",
    "squad_f1",
    "toxicity",
    "truthfulness",
]
