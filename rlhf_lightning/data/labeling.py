"""Labelers: callables that rank the responses to a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_lightning.errors import UserError

Labeler = Callable[[Sequence[Mapping[str, Any]], Sequence[Sequence[str]]], list[dict[str, Any]]]
"""(prompt rows, responses[row][k]) -> per row a dict with "ranks" (1 is best, equal ranks are a tie) and any
further columns."""


class ScoreLabeler:
    """Ranks responses by a score, higher is better.

    Args:
        score: (prompts, responses) -> one number each.
        tie: responses whose scores are within this of the best of their rank share the rank.
        name: the "labeler" of the rows.

    Errors:
        UserError: a negative ``tie``, a score that is not a number, or another number of scores than responses.
    """

    def __init__(
        self,
        *,
        score: Callable[[Sequence[str], Sequence[str]], Sequence[float]],
        tie: float = 0.0,
        name: str | None = None,
    ) -> None:
        if tie < 0:
            raise UserError(f"tie must not be negative, but is {tie}")
        self.score = score
        self.tie = tie
        self.name = name or getattr(score, "__name__", type(score).__name__)

    def __call__(self, rows: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Ranks for every row's responses; the whole batch is scored in one call."""
        prompts = [row["prompt"] for row, texts in zip(rows, responses, strict=True) for _ in texts]
        flat = [text for texts in responses for text in texts]
        scores = [float(score) for score in self.score(prompts, flat)]
        if len(scores) != len(flat):
            raise UserError(
                f"The score {self.name} gave {len(scores)} scores for {len(flat)} responses: one each is needed"
            )
        for response, score in zip(flat, scores, strict=True):
            if math.isnan(score):
                raise UserError(f"The score {self.name} gave nan for the response {response!r}: it cannot be ranked")
        labels = []
        for texts in responses:
            own, scores = scores[: len(texts)], scores[len(texts) :]
            labels.append({"ranks": _ranks(own, self.tie), "labeler": self.name})
        return labels


class VaderSentiment:
    """Sentiment of a response from -1 to 1, by a lexicon: the compound score of VADER (Hutto and Gilbert 2014).

    Errors:
        UserError: the package vaderSentiment is missing (extra ``stories``).
    """

    def __init__(self) -> None:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise UserError(
                "VaderSentiment needs the package vaderSentiment: pip install rlhf-lightning[stories]"
            ) from error
        self.analyzer = SentimentIntensityAnalyzer()

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [float(self.analyzer.polarity_scores(response)["compound"]) for response in responses]


def _ranks(scores: Sequence[float], tie: float) -> list[int]:
    """Dense ranks from 1; a rank reaches ``tie`` below its best score, so that ties do not chain."""
    ranks = [0] * len(scores)
    rank, best = 0, float("inf")
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if rank == 0 or best - scores[index] > tie:
            rank, best = rank + 1, scores[index]
        ranks[index] = rank
    return ranks
