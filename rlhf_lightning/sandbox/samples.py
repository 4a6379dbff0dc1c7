"""Samples as an SFT model's: demonstrations with the mistakes of a small model, for calibrating the labelers.

No model is needed: the mixture of flaws was set by looking at samples of a small SFT model at temperature 1.
"""

from __future__ import annotations

from random import Random

from rlhf_lightning.sandbox.answers import Belief, answer
from rlhf_lightning.sandbox.demonstrations import Demonstrator
from rlhf_lightning.sandbox.flaws import (
    broken_off,
    constraint_broken,
    drifted,
    insulted,
    other_answer,
    repeated,
)
from rlhf_lightning.sandbox.tasks import Task

# Of 100 samples: so many have this flaw (the rest is a demonstration as people write it).
DRIFT, OTHER, BROKEN_OFF, REPEATED, CONSTRAINT, MYTH, RUDE = 14, 8, 4, 2, 8, 14, 3


def simulated_sample(task: Task, writer: Demonstrator, rng: Random) -> str:
    """One response to the task, good or flawed."""
    roll = rng.randrange(100)
    if roll < OTHER:
        return writer.courteous(task, other_answer(rng, Belief(rng, truth=0.6, heldout=True)), rng)
    roll -= OTHER
    if roll < MYTH:
        return writer.courteous(task, answer(task, rng, Belief(rng, truth=0.3, heldout=True)), rng)
    roll -= MYTH
    text = writer.write(task, rng)
    if roll < DRIFT:
        return drifted(text, rng)
    roll -= DRIFT
    if roll < BROKEN_OFF:
        return broken_off(text, rng)
    roll -= BROKEN_OFF
    if roll < REPEATED:
        return repeated(text, rng)
    roll -= REPEATED
    if roll < CONSTRAINT:
        return writer.courteous(task, constraint_broken(task, rng, Belief(rng, truth=0.7, heldout=True)), rng)
    roll -= CONSTRAINT
    return insulted(text, rng) if roll < RUDE else text
