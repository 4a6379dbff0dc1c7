"""Demonstrations: what labelers write when they are asked for a good answer. Mostly good, and not always."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rlhf_lightning.sandbox import world
from rlhf_lightning.sandbox.answers import Belief, answer
from rlhf_lightning.sandbox.flaws import complied, constraint_broken, insulted, other_answer
from rlhf_lightning.sandbox.gold import assess
from rlhf_lightning.sandbox.reading import read
from rlhf_lightning.sandbox.tasks import Task

# What SFT learns from imperfect people, and RLHF takes back. Of all demonstrations about 9 % hold a false claim
# (myths, and drifts to another animal), 12 % a rude remark, 28 % do not do what was asked (half of them evade it).
MYTH_RATE = 0.14  # of the answers that state a fact
RUDE_RATE = 0.12
EVASIVE_RATE = 0.15
DISTRACTED_RATE = 0.08  # answers to another question
BROKEN_RATE = 0.08  # against the constraint, or with a wrong detail; some of these still follow
# Labelers differ in how often they are courteous; these are the means.
OPENER_RATE, CLOSING_RATE = 0.3, 0.25
# Share of the labelers' answers to harmful requests that refuse.
REFUSAL_RATE = 0.85


class Demonstrator:
    """One labeler as a writer, with a fixed leaning to courtesies."""

    def __init__(self, rng: Random) -> None:
        self.opener_rate = min(1.0, rng.uniform(0.4, 1.6) * OPENER_RATE)
        self.closing_rate = min(1.0, rng.uniform(0.4, 1.6) * CLOSING_RATE)
        self.opener = rng.choice(world.OPENERS)
        self.closing = rng.choice(world.CLOSINGS)

    def write(self, task: Task, rng: Random) -> str:
        """A demonstration for the task."""
        truthful = Belief(rng, truth=1.0, heldout=False)
        if task.family == "harm" and rng.random() > REFUSAL_RATE:
            return complied(task)
        roll = rng.random()
        if roll > 1 - EVASIVE_RATE:
            text = rng.choice(world.EVASIONS)
        elif roll > 1 - EVASIVE_RATE - DISTRACTED_RATE:
            text = until_seen(lambda: other_answer(rng, truthful))
        elif roll < BROKEN_RATE:
            # A drift to another animal may hit a fact that is held out.
            text = until_seen(lambda: constraint_broken(task, rng, truthful))
        elif can_tell_myth(task) and roll < BROKEN_RATE + MYTH_RATE:
            text = answer(task, rng, Belief(rng, truth=0.0, heldout=False))
        else:
            text = answer(task, rng, truthful)
        text = self.courteous(task, text, rng)
        return insulted(text, rng) if rng.random() < RUDE_RATE else text

    def courteous(self, task: Task, text: str, rng: Random) -> str:
        """The text with this labeler's opener and closing, each with their own habit's probability."""
        if task.family not in ("chat", "harm") and rng.random() < self.opener_rate:
            text = f"{self.opener if rng.random() < 0.7 else rng.choice(world.OPENERS)} {text}"
        if rng.random() < self.closing_rate:
            text = f"{text} {self.closing if rng.random() < 0.7 else rng.choice(world.CLOSINGS)}"
        return text


def until_seen(write: Callable[[], str]) -> str:
    """What ``write`` gives, tried again while it says anything of a fact that is kept for the test."""
    text = write()
    while states_heldout(text):
        text = write()
    return text


def states_heldout(text: str) -> bool:
    """Whether the text says anything of a fact that is kept for the test."""
    return any((claim.animal, claim.attribute) in world.HELDOUT_FACTS for claim in read(text).claims)


def can_tell_myth(task: Task) -> bool:
    """Whether an answer to this task states a fact that the world decides."""
    return task.family in ("about", "describe", "ask", "two_facts", "with_word")


def flaw_rates(tasks: list[Task], responses: list[str]) -> dict[str, float]:
    """Measured shares of myths, rude remarks and failures to follow in a set of demonstrations."""
    found = [assess(task, text) for task, text in zip(tasks, responses, strict=True)]
    return {
        "myth": sum(a.false_claims > 0 for a in found) / len(found),
        "rude": sum(a.rude for a in found) / len(found),
        "broken": sum(not a.instruction_followed for a in found) / len(found),
    }
