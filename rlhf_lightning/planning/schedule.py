"""How many steps a run takes and what it reads."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunSchedule:
    """Counts of a whole run.

    Args:
        iterations: of PPO; None elsewhere.
        rows: episodes of PPO, rows of data that are read elsewhere.
        optimizer_steps, learning_rate_steps: steps of the optimizer and of its schedule.
        pretraining_tokens: of plain text that are read.
    """

    iterations: int | None
    rows: int
    optimizer_steps: int
    learning_rate_steps: int
    pretraining_tokens: int = 0


def ppo_schedule(
    *,
    iterations: int,
    rollout_batch_size: int,
    minibatch_size: int,
    epochs: int = 1,
    ptx_ratio: int = 0,
    text_block: int = 0,
    max_steps: int | None = None,
) -> RunSchedule:
    """Of PPO: in an iteration ``epochs · rollout / minibatch`` optimizer steps and one learning-rate step, and in each
    of its epochs ``rollout · ptx_ratio · block`` pretraining tokens.

    Args:
        iterations: of the run.
        rollout_batch_size, minibatch_size: episodes of an iteration and of an optimizer step.
        epochs: passes over each rollout.
        ptx_ratio, text_block: pretraining rows for an episode, and their tokens; 0 without.
        max_steps: optimizer steps at which the run ends, after a whole iteration.
    """
    steps = epochs * (rollout_batch_size // minibatch_size)
    if max_steps is not None:
        iterations = min(iterations, math.ceil(max_steps / steps))
    episodes = iterations * rollout_batch_size
    return RunSchedule(
        iterations=iterations,
        rows=episodes,
        optimizer_steps=iterations * steps,
        learning_rate_steps=iterations,
        pretraining_tokens=episodes * epochs * ptx_ratio * text_block,
    )


def supervised_schedule(
    *,
    rows: int,
    batch_size: int,
    epochs: int = 1,
    block: int = 0,
    limit: int | None = None,
    max_steps: int | None = None,
) -> RunSchedule:
    """Of the other stages: one optimizer step and one learning-rate step for each batch, the last of an epoch smaller.

    Args:
        rows: of the training data.
        batch_size: rows of a batch.
        epochs: passes over the rows.
        block: tokens of a row of pretraining text; 0 for other data.
        limit: batches of an epoch at most.
        max_steps: of the run at most.
    """
    an_epoch = math.ceil(rows / batch_size)
    an_epoch = an_epoch if limit is None else min(an_epoch, limit)
    batches = an_epoch * epochs if max_steps is None else min(an_epoch * epochs, max_steps)
    whole, rest = divmod(batches, an_epoch) if an_epoch else (0, 0)
    read = whole * min(rows, an_epoch * batch_size) + min(rows, rest * batch_size)
    return RunSchedule(
        iterations=None,
        rows=read,
        optimizer_steps=batches,
        learning_rate_steps=batches,
        pretraining_tokens=read * block,
    )
