"""Judges from what is at hand: a labeler that ranks, or a function that prefers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from rlhf_lightning.data import Labeler
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.judges import Rows


class LabelerJudge:
    """A labeler, simulated or not, as a judge: the response with the better rank wins, equal ranks tie.

    Its Likert ratings, and its flags of the paper's Table 3, are metrics where it gives them; the gold reward is the
    Likert rating.

    Args:
        labeler: as for ``rlhf-collect``: (rows, responses of each) -> per row ``ranks`` and what else it knows.
    """

    def __init__(self, *, labeler: Labeler) -> None:
        self.labeler = labeler

    def prefer(self, rows: Rows, left: list[str], right: list[str]) -> list[float]:
        """1 where the left response is ranked better, ½ for a tie, else 0."""
        labels = self._ask(rows, [[a, b] for a, b in zip(left, right, strict=True)], "ranks")
        ranks = [label["ranks"] for label in labels]
        return [0.5 if first == second else float(first < second) for first, second in ranks]

    def assess(self, rows: Rows, responses: list[str]) -> dict[str, list[float]]:
        """``gold_reward``, and ``likert`` and the flags of each response as the labeler gives them."""
        labels = self._ask(rows, [[text] for text in responses], None)
        likert = [float(label["likert"][0]) if label.get("likert") else math.nan for label in labels]
        found = {"gold_reward": likert}
        if not all(map(math.isnan, likert)):
            found["likert"] = likert
        for name in dict.fromkeys(name for label in labels for name in label.get("flags") or {}):
            own = [(label.get("flags") or {}).get(name) for label in labels]
            found[name] = [math.nan if values is None else float(values[0]) for values in own]
        return found

    def _ask(self, rows: Rows, responses: list[list[str]], needed: str | None) -> list[dict[str, Any]]:
        labels = self.labeler(rows, responses)
        count = len(labels) == len(rows)
        if not count or (needed and any(len(label.get(needed, ())) != 2 for label in labels)):
            raise UserError(
                f"the labeler {type(self.labeler).__name__} must return one dict for each of {len(rows)} rows, with "
                "`ranks` for each of its responses"
            )
        return labels


class FunctionJudge:
    """Any function of two responses as a judge.

    Args:
        prefer: ``(prompts, left, right) -> numbers``, 1 where the left response is better, ½ for a tie, 0 where the
            right one is, or anything between as the probability that the left one is.
        score: optional, ``(prompts, responses) -> numbers``: the gold reward.
    """

    def __init__(
        self,
        *,
        prefer: Callable[[list[str], list[str], list[str]], Iterable[Any]],
        score: Callable[[list[str], list[str]], Iterable[Any]] | None = None,
    ) -> None:
        self._prefer = prefer
        self._score = score

    def prefer(self, rows: Rows, left: list[str], right: list[str]) -> list[float]:
        """What the function says."""
        return [float(value) for value in self._prefer([row["prompt"] for row in rows], left, right)]

    def assess(self, rows: Rows, responses: list[str]) -> dict[str, list[float]]:
        """The gold reward, NaN without a score."""
        if self._score is None:
            return {"gold_reward": [math.nan] * len(responses)}
        return {"gold_reward": [float(value) for value in self._score([row["prompt"] for row in rows], responses)]}
