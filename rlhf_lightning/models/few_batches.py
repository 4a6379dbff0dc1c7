"""Sequences that share a row, for attention as few padded batches: a layout that ``torch.compile`` can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_lightning.models.moved_rows import moved
from rlhf_lightning.models.shapes import COLUMNS, ROWS

if TYPE_CHECKING:
    from rlhf_lightning.models.sdpa import Attention

# Pairs of places in a batch, for each pair of tokens that attention needs, and for each token: with fewer, padding
# costs little beside what else a model computes, and one more batch is one more variant to compile.
_PER_PAIR, _PER_TOKEN = 2, 256


@dataclass(frozen=True, eq=False)
class FewBatches:
    """Sequences one behind the other at the beginning of a row of n tokens, as padded batches: one, or where their
    lengths are far apart a few, of sequences more than half as long as their longest.

    All of it are tensors of few shapes, so that a pass is compiled once for each number of batches.

    Shapes: sources: [b, w] each, the token in each place, n where there is none; place: [n], the place of each token
    among all N = Σ b · w, N for those of no sequence, which attend to nothing.
    """

    sources: tuple[Tensor, ...]
    place: Tensor

    @classmethod
    def of(cls, lengths: Tensor, count: int) -> FewBatches:
        """Of sequences with ``lengths`` [b] in a row of ``count`` tokens."""
        starts, left, sources = lengths.cumsum(0) - lengths, lengths > 0, list[Tensor]()
        while left.any():
            most = int(lengths[left].max())
            rows = left if _cheap(lengths[left]) else left & (2 * lengths > most)
            sources.append(_source(starts[rows], lengths[rows], count))
            left = left & ~rows
        places = torch.cat([starts.new_empty(0), *(source.flatten() for source in sources)])
        filled = (places < count).nonzero().squeeze(1)
        place = filled.new_full((count,), len(places)).index_put((places[filled],), filled)
        return cls(tuple(sources), place)

    def attend(self, attention: Attention, module: nn.Module, states: list[Tensor], options: Any) -> Tensor:
        """The outputs [1, n, h, d] of ``attention`` on queries, keys and values [1, h, n, d]."""
        query, key, value = (self._laid_out(one) for one in states)
        parts = [
            attention(module, *one, None, is_causal=True, **options)[0] for one in zip(query, key, value, strict=True)
        ]
        heads, size = parts[0].shape[2:]
        rows = torch.cat([part.reshape(-1, heads * size) for part in parts])
        return moved(rows, self.place, self._source(), fused=True).view(1, -1, heads, size)

    def _laid_out(self, states: Tensor) -> list[Tensor]:
        """States [1, h, n, d] as batches [b, h, w, d]."""
        _, heads, _, size = states.shape
        rows = moved(states[0].transpose(0, 1).flatten(1), self._source(), self.place, fused=True)
        parts = torch.split(rows, [source.numel() for source in self.sources])
        return [
            part.view(*source.shape, heads, size).transpose(1, 2)
            for part, source in zip(parts, self.sources, strict=True)
        ]

    def _source(self) -> Tensor:
        return torch.cat([source.flatten() for source in self.sources])


def _cheap(lengths: Tensor) -> bool:
    """Whether one batch is good enough for sequences of such lengths."""
    worth = max(_PER_PAIR * int(lengths.square().sum()), _PER_TOKEN * int(lengths.sum()))
    return len(lengths) * int(lengths.max()) ** 2 <= worth


def _source(starts: Tensor, lengths: Tensor, count: int) -> Tensor:
    width = int(lengths.max())
    column = torch.arange(width + -width % COLUMNS)
    tokens = torch.where(column < lengths.unsqueeze(1), starts.unsqueeze(1) + column, count)
    return pad(tokens, (0, 0, 0, -len(lengths) % ROWS), value=count)
