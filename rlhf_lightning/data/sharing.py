"""What a loader must know of the run: this process's share of every batch, and the batches that are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def rank_and_world(trainer: Trainer | None) -> tuple[int, int]:
    """(rank, number of processes) among which rows are shared; (0, 1) without a trainer."""
    ranks = None if trainer is None else trainer.distributed_sampler_kwargs
    return (ranks["rank"], ranks["num_replicas"]) if ranks else (0, 1)


def count_of_done(trainer: Trainer | None) -> Callable[[], int] | None:
    """Says how many batches of the present epoch the trainer is done with; None without a trainer."""
    if trainer is None:
        return None
    progress = trainer.fit_loop.epoch_loop.batch_progress
    # `processed` has moved when on_train_batch_end saves a checkpoint; `completed` has not. Lightning declares the
    # base class of what `current` is.
    return lambda: int(progress.current.processed)  # type: ignore[attr-defined]


def check_shared(batch_size: int, world_size: int) -> None:
    """Refuse a batch that cannot be dealt out in equal parts.

    Errors:
        UserError: names both numbers.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UserError(
            f"A batch size of {batch_size} cannot be shared by {world_size} processes: "
            f"set it to a positive multiple of {world_size}"
        )
