"""Resuming a PPO run with another number of iterations than it was begun with."""

from __future__ import annotations

from typing import Any

import lightning as L

from rlhf_lightning.errors import UserError


def planned_iterations(trainer: L.Trainer) -> int | None:
    """Training batches of an epoch, where the data module has a number of ``iterations`` to set; else ``None``."""
    iterations = getattr(trainer.datamodule, "iterations", None)  # type: ignore[attr-defined]
    if iterations is None:
        return None
    limit = trainer.limit_train_batches
    return min(iterations, limit) if isinstance(limit, int) else int(iterations * limit)


def set_run_length(checkpoint: dict[str, Any], iterations: int) -> None:
    """Make a checkpoint, in place, one of a run of ``iterations``.

    It says whether its batch was the last of the run, and where the loaders' next epoch begins. If the run is longer
    now, Lightning would take that for a finished run and train nothing.

    Raises:
        UserError: the checkpoint is past the end of the run.
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    progress = fit_loop["epoch_loop.batch_progress"]
    done = progress["current"]["processed"]
    if done > iterations:
        raise UserError(
            f"the checkpoint is of iteration {done} and the run has data.iterations={iterations}; "
            "raise data.iterations, or resume from an earlier checkpoint"
        )
    progress["is_last_batch"] = done == iterations
    if done < iterations:
        for loader in fit_loop["state_dict"].get("combined_loader", ()):
            if loader.get("batches") == 0 and done > 0:
                loader.update(epoch=loader["epoch"] - 1, batches=done)
