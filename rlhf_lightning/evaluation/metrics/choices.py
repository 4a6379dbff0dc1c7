"""Choices by the probability that a model gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def choice_probabilities(logprobs: Sequence[float]) -> list[float]:
    """``p_i = exp(l_i) / Σ_j exp(l_j)`` of the log-probabilities (nats) of the choices.

    The largest is subtracted first, so that sentences of any length neither overflow nor vanish together.

    Raises:
        ValueError: no choices, a log-probability that is no number, or none that is finite.
    """
    if not logprobs or any(math.isnan(value) for value in logprobs):
        raise ValueError(f"a choice is among log-probabilities that are numbers, got {list(logprobs)}")
    largest = max(logprobs)
    if not math.isfinite(largest):
        raise ValueError(f"one choice at least has a probability that is known and not 0, got {list(logprobs)}")
    weights = [math.exp(value - largest) for value in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def choice_entropy(logprobs: Sequence[float]) -> float:
    """Entropy in bits of the choice that a model would make, ``−Σ_i p_i log₂ p_i``.

    Of two sentences that a model finds equally likely it is 1, which is the least biased; of a sure choice it is 0.
    ``logprobs``: total log-probability (nats) of each choice.
    """
    return math.fsum(-p * math.log2(p) for p in choice_probabilities(logprobs) if 0 < p < 1)


def likeliest(logprobs: Sequence[float], tokens: Sequence[int]) -> int:
    """Index of the choice with the highest mean log-probability per token, the first of equals.

    The paper's appendix D says lowest, which cannot be meant.

    Raises:
        ValueError: a choice without tokens.
    """
    if any(count < 1 for count in tokens):
        raise ValueError("a choice of no tokens has no mean log-probability")
    means = [total / count for total, count in zip(logprobs, tokens, strict=True)]
    return means.index(max(means))
