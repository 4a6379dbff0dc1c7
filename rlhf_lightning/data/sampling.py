"""Batches of row numbers for a stream that can be continued at any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DistributedSampler

from rlhf_lightning.data.sharing import check_shared
from rlhf_lightning.errors import UserError


class StreamBatchSampler(DistributedSampler[list[int]]):
    """Yields lists of row numbers; the same lists in any process, from any batch on.

    Every order is a permutation drawn from a generator of its own, seeded by (seed, pass), so no global random state
    is read or moved.

    - ``batches=None``: an iteration is one pass over the rows; the last batch may be smaller.
    - ``batches=N``: an iteration is N full batches of an endless stream that reshuffles at every pass; a batch
      may cross the border of two passes and may be larger than the dataset.

    It is a ``DistributedSampler`` so that Lightning sees that it deals the rows to the ranks by itself and calls
    ``set_epoch``. Give it to a ``DataLoader`` as ``sampler`` with ``batch_size=None``.

    Args:
        size: rows of the dataset.
        batch_size: rows of a batch, over all ranks.
        seed: seed of the order.
        batches: length of an iteration; None for one pass.
        shuffle: False keeps the order of the rows.
        drop_last: leave out an incomplete last batch (``batches=None`` only).
        mixture: (rows, draws) of each of the tables that make up the dataset, in their order: a pass takes ``draws``
            rows of each, whose own order goes on where the pass before has left it. The draws sum up to ``size``.
            None: every row once in a pass.
        repeats: times that every row stands in a batch, side by side; ``batch_size`` counts them all.
        rank, world_size: this process takes its contiguous share of every batch.

    Errors:
        UserError: ``batch_size`` is not divisible by ``repeats`` and ``world_size``, or the dataset does not make a
            single batch.
    """

    def __init__(
        self,
        *,
        size: int,
        batch_size: int,
        seed: int,
        batches: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        mixture: Sequence[tuple[int, int]] | None = None,
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if repeats < 1 or batch_size % repeats:
            raise UserError(f"{repeats} times every row do not make a batch of {batch_size}")
        check_shared(batch_size, world_size)
        if batches is not None and batches < 1:
            raise UserError(f"The number of batches must be at least 1, not {batches}")
        if size < (batch_size if drop_last and batches is None else world_size):
            raise UserError(
                f"A dataset of {size} rows does not make one batch of {batch_size} for {world_size} processes: "
                "set a smaller batch size or use fewer processes"
            )
        super().__init__(
            range(size),  # type: ignore[arg-type]  # has a length, which is all that is asked of it
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
        self.size = size
        self.repeats = repeats
        self.rows_per_batch = batch_size // repeats  # different ones
        self.batches = batches
        self.mixture = mixture
        self.start = 0

    def __len__(self) -> int:
        """Batches of a whole iteration, wherever the next one starts."""
        if self.batches is not None:
            return self.batches
        full, rest = divmod(self.size, self.rows_per_batch)
        # A rest too small to give every rank a row joins the batch before it: an empty batch would leave a rank behind.
        return full + (not self.drop_last and rest >= (self.num_replicas if full else 1))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the coming iterations; another epoch than the present one starts at its first batch."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Let the next iteration start at this batch; the ones after it start at 0 again."""
        self.start = batches

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        pass_index, order = -1, torch.empty(0, dtype=torch.long)
        for batch in range(start, len(self)):
            rows: list[int] = []
            position, end = self._span(batch)
            while position < end:
                if position // self.size != pass_index:
                    pass_index = position // self.size
                    order = self._order(pass_index)
                offset = position - pass_index * self.size
                taken = order[offset : offset + end - position].tolist()
                rows += taken
                position += len(taken)
            rows = [row for row in rows for _ in range(self.repeats)]
            share = (
                len(rows) * self.rank // self.num_replicas,
                len(rows) * (self.rank + 1) // self.num_replicas,
            )
            yield rows[share[0] : share[1]]

    def _span(self, batch: int) -> tuple[int, int]:
        """First and last position of a batch in the endless stream of passes."""
        if self.batches is not None:
            first = (self.epoch * self.batches + batch) * self.rows_per_batch
            return first, first + self.rows_per_batch
        first = self.epoch * self.size + batch * self.rows_per_batch
        if batch < len(self) - 1 or self.drop_last:
            return first, first + self.rows_per_batch
        return first, (self.epoch + 1) * self.size

    def _order(self, pass_index: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.size)
        order = permutation(self.size, seed=self.seed, name=f"{pass_index}")
        if self.mixture is None:
            return order
        drawn, first = [], 0
        for number, (rows, draws) in enumerate(self.mixture):
            drawn.append(first + self._draws(number, rows, pass_index * draws, (pass_index + 1) * draws))
            first += rows
        return torch.cat(drawn)[order]

    def _draws(self, number: int, rows: int, start: int, end: int) -> torch.Tensor:
        """Rows of one table of a mixture, from ``start`` to ``end`` in its own endless stream."""
        if start == end:
            return torch.empty(0, dtype=torch.long)
        rounds = range(start // rows, (end - 1) // rows + 1)
        stream = torch.cat([permutation(rows, seed=self.seed, name=f"{number}:{index}") for index in rounds])
        return stream[start - rounds[0] * rows : end - rounds[0] * rows]


def permutation(size: int, *, seed: int, name: str) -> torch.Tensor:
    """The numbers below ``size`` in an order of their own for every seed and name, the same in any process."""
    # Hashed, so that neighbouring seeds and passes share no order, as seed + pass would make them do.
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(size, generator=generator)
