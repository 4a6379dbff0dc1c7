"""Simulated labelers: each has tastes of their own (weights) and noise, and ranks responses with ties.

utility_l(x, y) = sum_k w_lk f_k(x, y) + s_l e(l, x, y), with e standard normal. The noise is a hash of labeler, prompt
and response: it depends on neither the order nor the company of the responses, nor on the process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from statistics import NormalDist
from typing import Any, Literal

from rlhf_lightning.errors import UserError
from rlhf_lightning.sandbox.gold import WEIGHTS, assess, features, flags, utility
from rlhf_lightning.sandbox.tasks import Task

# The one constant that sets how far two labelers agree: the noise's standard deviation in units of utility.
# Calibrated on the simulated responses of samples.py, so that two labelers agree on 73 % of the pairs that both rank
# strictly (paper, section 3.4: 72.6 +- 1.5 %); the report prints what they do on a run's own samples.
NOISE = 1.85
# Held-out labelers are a little more careful: the paper's agree on 77.3 +- 1.3 %.
HELDOUT_NOISE_FACTOR = 0.8
# Spread of the tastes: every weight is multiplied by a log-normal factor of this standard deviation.
TASTE = 0.35
# Responses whose utilities differ by less are ranked equal.
TIE = 0.35

_NORMAL = NormalDist()
Group = Literal["train", "heldout"]


def digest(*parts: object) -> int:
    """A 64-bit hash that is the same in every process (``hash`` is not)."""
    data = json.dumps(parts).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def task_of(row: Mapping[str, Any]) -> Task:
    """The row's structured task; UserError if the row has none."""
    if not row.get("task"):
        raise UserError(
            f"prompt {row.get('prompt')!r:.60} has no task column: simulated labelers judge only prompts "
            "written by prepare_sandbox"
        )
    return Task.from_json(row["task"])


@dataclass(frozen=True)
class Labeler:
    """One labeler: a name, weights over the gold features, and a noise level."""

    name: str
    weights: Mapping[str, float]
    noise: float
    tie: float

    def utility(self, task: Task, prompt: str, response: str, values: Mapping[str, float] | None = None) -> float:
        """This labeler's opinion of one response."""
        known = features(task, response) if values is None else values
        share = (digest(self.name, prompt, response) + 1) / (2**64 + 2)
        return utility(known, self.weights) + self.noise * _NORMAL.inv_cdf(share)

    def ranks(self, utilities: Sequence[float]) -> list[int]:
        """1 = best; responses within ``tie`` of the best of their group share its rank."""
        order = sorted(range(len(utilities)), key=lambda i: -utilities[i])
        ranks = [0] * len(utilities)
        leader, rank = float("inf"), 0
        for i in order:
            if rank == 0 or leader - utilities[i] > self.tie:
                leader, rank = utilities[i], rank + 1
            ranks[i] = rank
        return ranks

    def likert(self, value: float) -> int:
        """Overall quality 1 to 7 for a utility."""
        return max(1, min(7, round(4 + (value - LIKERT_MIDDLE) / LIKERT_STEP)))


# Likert 4 is given to this utility, and each further point costs one step.
LIKERT_MIDDLE, LIKERT_STEP = 3.2, 0.9


def hire(*, seed: int = 0, count: int = 40, heldout: int = 8, group: Group = "train") -> list[Labeler]:
    """The labelers of one group: ``count`` in all, the last ``heldout`` of them held out."""
    if not 0 < heldout < count:
        raise UserError(f"labelers: heldout={heldout} must be at least 1 and less than count={count}")
    if group not in ("train", "heldout"):
        raise UserError(f"labelers: group={group!r} is neither 'train' nor 'heldout'")
    chosen = range(count - heldout) if group == "train" else range(count - heldout, count)
    staff = []
    for i in chosen:
        rng = Random(digest("labeler", seed, i))
        weights = {name: weight * rng.lognormvariate(0.0, TASTE) for name, weight in WEIGHTS.items()}
        factor = HELDOUT_NOISE_FACTOR if group == "heldout" else 1.0
        noise = NOISE * factor * rng.uniform(0.8, 1.2)
        staff.append(Labeler(f"labeler-{seed}-{i:02d}", weights, noise, TIE * rng.uniform(0.7, 1.3)))
    return staff


class SimulatedLabelers:
    """The labeler of ``rlhf-collect``: every row is ranked by one labeler of the group.

    Which one is a hash of seed and prompt. Needs the ``task`` column of the sandbox's prompts.
    """

    def __init__(self, *, seed: int = 0, count: int = 40, heldout: int = 8, group: Group = "train") -> None:
        self.seed = seed
        self.staff = hire(seed=seed, count=count, heldout=heldout, group=group)

    def labeler_of(self, prompt: str) -> Labeler:
        """Who judges this prompt."""
        return self.staff[digest("assigned", self.seed, prompt) % len(self.staff)]

    def __call__(self, rows: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Per row: ``ranks`` (1 = best, equal = tie), ``labeler``, ``likert`` and the Table 3 ``flags``."""
        if len(rows) != len(responses):
            raise UserError(f"{len(rows)} rows but responses for {len(responses)}: give one list of responses per row")
        results = []
        for row, texts in zip(rows, responses, strict=True):
            task, labeler = task_of(row), self.labeler_of(row["prompt"])
            found = [assess(task, text) for text in texts]
            utilities = [
                labeler.utility(task, row["prompt"], text, features(task, text, a))
                for text, a in zip(texts, found, strict=True)
            ]
            marks = [flags(a) for a in found]
            results.append(
                {
                    "ranks": labeler.ranks(utilities),
                    "labeler": labeler.name,
                    "likert": [labeler.likert(u) for u in utilities],
                    "flags": {name: [mark[name] for mark in marks] for name in (marks[0] if marks else {})},
                }
            )
        return results

    def agreement(self, rows: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[str]]) -> float:
        """Share of response pairs on which two labelers of the group agree, over the pairs both rank strictly.

        Every row is ranked by two labelers (chosen by a hash) who do not know of each other.
        """
        counts = self.agreement_counts(rows, responses)
        total = sum(decided for _, decided in counts)
        return sum(same for same, _ in counts) / total if total else float("nan")

    def agreement_counts(
        self, rows: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[str]]
    ) -> list[tuple[int, int]]:
        """Per row the pairs on which the two of :meth:`agreement` agree, and those that both rank strictly."""
        counts = []
        for row, texts in zip(rows, responses, strict=True):
            task = task_of(row)
            pair = Random(digest("agreement", self.seed, row["prompt"])).sample(self.staff, 2)
            values = [features(task, text) for text in texts]
            first, second = (
                one.ranks([one.utility(task, row["prompt"], t, v) for t, v in zip(texts, values, strict=True)])
                for one in pair
            )
            strict = [
                (first[i] < first[j]) == (second[i] < second[j])
                for i, j in combinations(range(len(texts)), 2)
                if first[i] != first[j] and second[i] != second[j]
            ]
            counts.append((sum(strict), len(strict)))
        return counts
