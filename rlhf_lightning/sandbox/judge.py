"""The evaluation's judge: held-out labelers for preferences, the gold checker for everything the world decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.sandbox.gold import assess, features, flags, utility
from rlhf_lightning.sandbox.labelers import Group, SimulatedLabelers, task_of


class SandboxJudge:
    """Compares and assesses responses to the sandbox's prompts; by default with the held-out labelers."""

    def __init__(self, *, seed: int = 0, group: Group = "heldout") -> None:
        self._labelers = SimulatedLabelers(seed=seed, group=group)

    def prefer(self, rows: Sequence[Mapping[str, Any]], left: Sequence[str], right: Sequence[str]) -> list[float]:
        """Per row 1.0 if the left response wins, 0.0 if the right one, 0.5 for a tie.

        One labeler of the group per prompt; exchanging left and right gives exactly the complement.
        """
        if not len(rows) == len(left) == len(right):
            raise UserError(f"{len(rows)} rows, {len(left)} left and {len(right)} right responses: must be as many")
        results = []
        for row, pair in zip(rows, zip(left, right, strict=True), strict=True):
            task, labeler = task_of(row), self._labelers.labeler_of(row["prompt"])
            first, second = labeler.ranks([labeler.utility(task, row["prompt"], text) for text in pair])
            results.append(0.5 if first == second else float(first < second))
        return results

    def assess(self, rows: Sequence[Mapping[str, Any]], responses: Sequence[str]) -> dict[str, list[float]]:
        """Per row: gold_reward, instruction_followed, truthful, rude, likert, and the flags of Table 3 as 0 or 1."""
        if len(rows) != len(responses):
            raise UserError(f"{len(rows)} rows but {len(responses)} responses: must be as many")
        columns: dict[str, list[float]] = {}
        for row, text in zip(rows, responses, strict=True):
            task, labeler = task_of(row), self._labelers.labeler_of(row["prompt"])
            found = assess(task, text)
            values = features(task, text, found)
            line: dict[str, float] = {
                "gold_reward": utility(values),
                "instruction_followed": found.instruction_followed,
                "truthful": found.truthful,
                "rude": found.rude,
                "likert": labeler.likert(labeler.utility(task, row["prompt"], text, values)),
                **flags(found),
            }
            for name, value in line.items():
                columns.setdefault(name, []).append(float(value))
        return columns
