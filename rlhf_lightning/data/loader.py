"""A data loader whose position is part of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from rlhf_lightning.data.mixing import Mixture, Table
from rlhf_lightning.data.sampling import StreamBatchSampler
from rlhf_lightning.data.sharing import count_of_done, rank_and_world
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class _Batches(Dataset[list[dict[str, Any]]]):
    """A table whose items are the rows of a list of numbers."""

    def __init__(self, rows: Table) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: list[int]) -> list[dict[str, Any]]:
        return self.rows.__getitems__(indices)


class StreamLoader(DataLoader[Any]):
    """Batches in the order of a ``StreamBatchSampler``, continued by Lightning where a checkpoint left off.

    Lightning saves the ``state_dict`` of the training loaders with its loops and hands it back on
    ``fit(ckpt_path=...)``, also in the middle of an epoch. ``len`` stays the length of a whole epoch, because
    Lightning counts the batches that were already done.

    Args:
        rows: the table.
        sampler: which rows make a batch.
        collate: list of rows -> batch.
        num_workers: worker processes, each of which makes the two batches that come next while one is trained on; with
            0 a batch is made when it is asked for, of rows that are encoded already.
        batches_done: batches of this epoch whose training step is over. Lightning knows it best: an iteration that
            was interrupted is repeated. Default: the batches that this loader has handed out.
        ahead: hand out every batch, a named tuple, with the next one in its field ``ahead``.
    """

    def __init__(
        self,
        rows: Table,
        *,
        sampler: StreamBatchSampler,
        collate: Callable[[list[dict[str, Any]]], Any],
        num_workers: int = 0,
        batches_done: Callable[[], int] | None = None,
        ahead: bool = False,
    ) -> None:
        # A loader draws a seed for its workers at every iteration; from a generator of its own, so that the global
        # random state, which sampling depends on, is the same in a resumed run as in an uninterrupted one.
        super().__init__(
            _Batches(rows),
            sampler=sampler,
            batch_size=None,
            collate_fn=collate,
            num_workers=num_workers,
            generator=torch.Generator().manual_seed(sampler.seed),
        )
        self.stream = sampler
        self._batches_done = batches_done
        self._ahead = ahead
        self._handed_out = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader declares an iterator class of its own
        # A generator, so that nothing starts before the first batch is asked for: Lightning makes the iterator before
        # it sets the epoch, and workers would prefetch batches of the wrong one.
        self._handed_out = self.stream.start
        batches = super().__iter__()
        for batch in _each_with_next(batches) if self._ahead else batches:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of its batches that are done; a finished epoch is batch 0 of the next."""
        done = self._handed_out if self._batches_done is None else self._batches_done()
        if done >= len(self):
            return {"epoch": self.stream.epoch + 1, "batches": 0}
        return {"epoch": self.stream.epoch, "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration start where ``state_dict`` was taken."""
        self.stream.set_epoch(state_dict["epoch"])
        self.stream.skip(state_dict["batches"])


def _each_with_next(batches: Iterator[Any]) -> Iterator[Any]:
    batch = next(batches, None)
    for following in chain(batches, [None]):
        if batch is not None:  # an epoch that is over has none
            yield batch._replace(ahead=following)
        batch = following


def stream_loader(
    rows: Table,
    *,
    trainer: Trainer | None,
    collate: Callable[[list[dict[str, Any]]], Any],
    batch_size: int,
    seed: int = 0,
    batches: int | None = None,
    train: bool = False,
    repeats: int = 1,
    num_workers: int = 0,
    ahead: bool = False,
) -> StreamLoader:
    """A loader for this process's share of the batches: shuffled and resumable to train, in order otherwise.

    The weights of a ``Mixture`` are for training; in order, every row comes once. ``ahead`` as in ``StreamLoader``.
    """
    overfit = getattr(trainer, "overfit_batches", 0)  # set without a declaration, hence getattr
    if overfit:
        raise UserError(
            f"trainer.overfit_batches={overfit} would replace the sampler that makes runs resumable: "
            "set it to 0 and use trainer.limit_train_batches or a smaller file"
        )
    rank, world_size = rank_and_world(trainer)
    sampler = StreamBatchSampler(
        size=len(rows),
        batch_size=batch_size,
        seed=seed,
        batches=batches,
        shuffle=train,
        mixture=rows.draws() if train and isinstance(rows, Mixture) else None,
        repeats=repeats,
        rank=rank,
        world_size=world_size,
    )
    done = count_of_done(trainer) if train else None
    return StreamLoader(rows, sampler=sampler, collate=collate, num_workers=num_workers, batches_done=done, ahead=ahead)
