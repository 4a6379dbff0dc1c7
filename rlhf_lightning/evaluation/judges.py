"""Who says which response is better: the judge of an evaluation, which no training ever sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from rlhf_lightning.errors import UserError

Rows = Sequence[Mapping[str, Any]]


class Judge(Protocol):
    """Compares and assesses responses to the rows of a prompts file (their extra columns included)."""

    def prefer(self, rows: Rows, left: list[str], right: list[str]) -> list[float]:
        """Per row 1.0 if the left response is better, 0.0 if the right one is, 0.5 for a tie."""
        ...

    def assess(self, rows: Rows, responses: list[str]) -> dict[str, list[float]]:
        """Metrics of each response by name, ``gold_reward`` at least; NaN where one cannot be decided."""
        ...


class ScoreJudge:
    """A judge from a score over text: the higher score is better, and is the gold reward.

    Args:
        score: ``(prompts, responses) -> scores``, as many numbers as responses; higher is better.
        tie: responses whose scores differ by no more than this are equal.
    """

    def __init__(self, *, score: Callable[[list[str], list[str]], Iterable[Any]], tie: float = 0.0) -> None:
        if tie < 0:
            raise UserError(f"judge.tie={tie} is negative: give the largest difference that counts as equal")
        self.score = score
        self.tie = tie

    def prefer(self, rows: Rows, left: list[str], right: list[str]) -> list[float]:
        """Compare the scores of two responses to each row; ties are 0.5."""
        differences = [a - b for a, b in zip(self._scores(rows, left), self._scores(rows, right), strict=True)]
        return [0.5 if abs(d) <= self.tie else float(d > 0) for d in differences]

    def assess(self, rows: Rows, responses: list[str]) -> dict[str, list[float]]:
        """``{"gold_reward": scores}``."""
        return {"gold_reward": self._scores(rows, responses)}

    def _scores(self, rows: Rows, responses: list[str]) -> list[float]:
        scores = [float(score) for score in self.score([row["prompt"] for row in rows], responses)]
        if len(scores) != len(responses):
            raise UserError(f"judge.score gave {len(scores)} scores for {len(responses)} responses: give one for each")
        return scores
