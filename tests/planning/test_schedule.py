"""Counts of a run, by hand."""

from __future__ import annotations

from rlhf_lightning.planning import ppo_schedule, schedule_line, supervised_schedule


def test_the_papers_ppo_ptx() -> None:
    """256k episodes in rollouts of 512 and minibatches of 64; 8 pretraining examples for each episode."""
    run = ppo_schedule(
        iterations=500, rollout_batch_size=512, minibatch_size=64, epochs=1, ptx_ratio=8, text_block=2048
    )
    assert run.rows == 256_000
    assert run.optimizer_steps == 4_000
    assert run.learning_rate_steps == 500
    assert run.pretraining_tokens == 256_000 * 8 * 2048
    assert schedule_line(run) == (
        "500 iterations, 256,000 episodes, 4,000 optimizer steps, 500 learning-rate steps, "
        "4,194,304,000 pretraining tokens"
    )


def test_every_epoch_reads_the_text_again() -> None:
    run = ppo_schedule(iterations=3, rollout_batch_size=8, minibatch_size=4, epochs=2, ptx_ratio=1, text_block=10)
    assert run.optimizer_steps == 12
    assert run.pretraining_tokens == 3 * 8 * 2 * 10


def test_ppo_ends_after_the_iteration_that_reaches_the_last_step() -> None:
    run = ppo_schedule(iterations=10, rollout_batch_size=8, minibatch_size=4, max_steps=5)  # 2 steps an iteration
    assert run.iterations == 3
    assert run.optimizer_steps == 6


def test_supervised_batches_of_an_epoch() -> None:
    run = supervised_schedule(rows=10, batch_size=4, epochs=2)  # 4, 4 and 2 rows, twice
    assert (run.optimizer_steps, run.rows, run.pretraining_tokens) == (6, 20, 0)
    assert schedule_line(run) == "20 rows, 6 optimizer steps, 6 learning-rate steps"


def test_supervised_limits() -> None:
    assert supervised_schedule(rows=10, batch_size=4, epochs=2, limit=2).rows == 16
    run = supervised_schedule(rows=10, batch_size=4, epochs=2, block=5, max_steps=4)
    assert (run.optimizer_steps, run.rows) == (4, 14)
    assert run.pretraining_tokens == 14 * 5
