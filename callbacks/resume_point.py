"""What a checkpoint of the last batch of an epoch means to the run that resumes from it.

Lightning's counters in a checkpoint that was saved in ``on_train_batch_end`` say that an epoch is under way, and
whether the batch was its last. Two cases need help: a PPO run that is longer now than it was, and an epoch that has
another one after it.
"""

from __future__ import annotations

from typing import Any

import lightning as L

from rlhf_lightning.errors import CheckpointError


def settle(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    """Change a checkpoint's counters, in place, so that ``trainer`` goes on with the next batch.

    Raises:
        CheckpointError: the checkpoint is past the end of the run.
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    batches, epochs = fit_loop["epoch_loop.batch_progress"]["current"], fit_loop["epoch_progress"]["current"]
    if batches["completed"] == batches["processed"] or epochs["processed"] == epochs["ready"]:
        return  # saved at another moment, by another callback
    iterations = _iterations(trainer)
    if iterations is not None:
        _set_length(fit_loop, iterations)
    last_epoch = 0 <= (trainer.max_epochs or 0) <= epochs["ready"]
    if fit_loop["epoch_loop.batch_progress"]["is_last_batch"] and not last_epoch and trainer.max_steps == -1:
        _end_epoch(fit_loop)


def _iterations(trainer: L.Trainer) -> int | None:
    """Batches of an epoch, where the data module has a number of ``iterations`` to set; else ``None``."""
    # Lightning sets datamodule without declaring it.
    iterations = getattr(trainer.datamodule, "iterations", None)  # type: ignore[attr-defined]
    if iterations is None:
        return None
    limit = trainer.limit_train_batches
    return min(iterations, limit) if isinstance(limit, int) else int(iterations * limit)


def _set_length(fit_loop: dict[str, Any], iterations: int) -> None:
    """Make it a checkpoint of an epoch of ``iterations``. If those are more than they were, Lightning would take the
    run for finished and train nothing, and the loaders would stand at their next epoch."""
    progress = fit_loop["epoch_loop.batch_progress"]
    done = progress["current"]["processed"]
    if done > iterations:
        raise CheckpointError(
            f"the checkpoint is of iteration {done} and the run has data.iterations={iterations}; "
            "raise data.iterations, or resume from an earlier checkpoint"
        )
    progress["is_last_batch"] = done == iterations
    if done < iterations:
        for loader in fit_loop["state_dict"].get("combined_loader", ()):
            if loader.get("batches") == 0:
                loader.update(epoch=loader["epoch"] - 1, batches=done)


def _end_epoch(fit_loop: dict[str, Any]) -> None:
    """Make it a checkpoint of a finished epoch. Lightning 2.6 goes on with the next epoch without counting that it
    has begun, so that a checkpoint from within that one would repeat it from its first batch when resumed."""
    for count in fit_loop["epoch_progress"].values():
        count.update(processed=count["ready"], completed=count["ready"])
    batches = fit_loop["epoch_loop.batch_progress"]
    batches["total"]["completed"] = batches["total"]["processed"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # the step of the next row of metrics
