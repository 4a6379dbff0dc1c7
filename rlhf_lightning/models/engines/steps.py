"""Decoding steps over a cache that grows."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rlhf_lightning.models.engines.kv_cache import block_of
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.engines.prompts import Prompts
from rlhf_lightning.models.shapes import few_shapes

# Moving the cache costs about one step, so rows leave once a fifth of the batch has ended.
_WORTH_MOVING = 0.8
# Rows where every new number of them is dear (models/shapes.py).
_FEW = 8


class Steps(Protocol):
    """What decodes rows whose prompts have been read."""

    def __call__(self, chosen: Tensor) -> Tensor:
        """Logits [b, v] of what follows the tokens [b] that were drawn last."""
        ...

    def going_on(self, remaining: int, rows: int) -> int:
        """With how many of ``rows``, of which ``remaining`` have not ended, to go on: all where taking rows out is not
        worth it, and at least one."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows, in ascending order, alone."""
        ...


class EagerSteps:
    """Steps that read what the cache holds so far and nothing behind it.

    Args:
        read: the model's pass.
        prompts: what it has read.
        steps: the most that will be made.
    """

    def __init__(self, read: NextLogits, prompts: Prompts, steps: int) -> None:
        self.read, self.cache, self.positions = read, prompts.cache, prompts.positions
        self._block = block_of(prompts.cache)
        self._padded = not bool(prompts.mask.all())
        self._seen = prompts.mask.shape[1]
        self._mask = torch.nn.functional.pad(prompts.mask, (0, steps + self._block))

    def __call__(self, chosen: Tensor) -> Tensor:
        """See :class:`Steps`."""
        self._mask[:, self._seen] = True
        self._seen += 1
        columns = self._seen + -self._seen % self._block
        mask = self._mask[:, :columns] if self._padded or columns > self._seen else None
        logits = self.read(chosen.unsqueeze(1), self.positions.unsqueeze(1), mask, self.cache)
        self.positions = self.positions + 1
        return logits

    def going_on(self, remaining: int, rows: int) -> int:
        """See :class:`Steps`."""
        count = max(remaining, 1)
        if few_shapes(self._mask, self.read.model):
            count = min(count + -count % _FEW, rows)
        return count if count <= _WORTH_MOVING * rows else rows

    def keep(self, rows: Tensor) -> None:
        """See :class:`Steps`."""
        self.cache.batch_select_indices(rows)
        self.positions, self._mask = self.positions[rows], self._mask[rows]
