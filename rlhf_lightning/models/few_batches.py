"""Sequences that share a row, for attention as few padded batches: a layout that ``torch.compile`` can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_lightning.models.row_layouts import batch_of, laid_out, places, put_back
from rlhf_lightning.models.shapes import COLUMNS, ROWS

if TYPE_CHECKING:
    from rlhf_lightning.models.sdpa import Attention

# Every number of batches is one more variant to compile, and so is a batch of one row.
_MOST = 2
# Pairs of places in a batch, for each pair of tokens that attention needs, and for each token: with fewer, padding
# costs little beside what else a model computes.
_PER_PAIR, _PER_TOKEN = 2, 256
# Columns up to which rows are filled up to few numbers, and up to which one row becomes two: they save more than
# attention over padding costs.
_SHORT, _MEDIUM = 128, 512


@dataclass(frozen=True, eq=False)
class FewBatches:
    """Sequences one behind the other at the beginning of a row of n tokens, as padded batches: one, or where their
    lengths are far apart two, the first of sequences more than half as long as the longest.

    All of it are tensors, most of them of shapes that come again, so that a pass is compiled for numbers of batches and
    not for every batch.

    Shapes: sources: [b, w] each, the token in each place, n where there is none; source: [N], all of them; place: [n],
    the place of each token, N for those of no sequence, which attend to nothing.
    """

    sources: tuple[Tensor, ...]
    source: Tensor
    place: Tensor

    @classmethod
    def of(cls, lengths: Tensor, count: int) -> FewBatches:
        """Of sequences with ``lengths`` [b] in a row of ``count`` tokens."""
        starts, left, sources = lengths.cumsum(0) - lengths, lengths > 0, list[Tensor]()
        while left.any():
            rows = left
            if len(sources) + 1 < _MOST and not _cheap(lengths[left]):
                rows = left & (2 * lengths > lengths[left].max())
            few, width = _filled(lengths[rows])
            tokens = batch_of(starts[rows], lengths[rows], count, width)
            sources.append(pad(tokens, (0, 0, 0, few - len(tokens)), value=count))
            left = left & ~rows
        source = torch.cat([one.flatten() for one in sources])
        return cls(tuple(sources), source, places(source, count))

    def attend(self, attention: Attention, module: nn.Module, states: list[Tensor], options: Any) -> Tensor:
        """The outputs [1, n, h, d] of ``attention`` on queries, keys and values [1, h, n, d]."""
        batches = [tuple(one.shape) for one in self.sources]
        query, key, value = (laid_out(one, batches, self.source, self.place, fused=True) for one in states)
        parts = [
            attention(module, *one, None, is_causal=True, **options)[0] for one in zip(query, key, value, strict=True)
        ]
        return put_back(parts, self.source, self.place, fused=True)


def _filled(lengths: Tensor) -> tuple[int, int]:
    """Rows and columns of a batch."""
    rows, width = len(lengths), int(lengths.max())
    width += -width % COLUMNS
    if width <= _SHORT:
        rows += -rows % ROWS
    return max(rows, 2 if width <= _MEDIUM else 1), width


def _cheap(lengths: Tensor) -> bool:
    """Whether one batch is good enough for sequences of such lengths."""
    rows, width = _filled(lengths)
    worth = max(_PER_PAIR * int(lengths.square().sum()), _PER_TOKEN * int(lengths.sum()))
    return rows * width**2 <= worth
