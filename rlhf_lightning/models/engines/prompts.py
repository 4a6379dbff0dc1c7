"""Reading prompts into a KV cache: each different one once, neighbours in length together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlhf_lightning.functional import groups_of_like_length
from rlhf_lightning.models.engines.kv_cache import can_be_joined, joined, preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.sharding import is_sharded

_TOKENS = 2**15  # of a pass; more need much memory and save no time


class Prompts(NamedTuple):
    """Prompts that have been read. Shapes: logits: [b, v], of what follows; mask: [b, p], bool, p the longest prompt,
    which stands at the right; positions: [b], of what follows."""

    logits: Tensor
    cache: DynamicCache
    mask: Tensor
    positions: Tensor


def read_prompts(
    model: nn.Module, read: NextLogits, input_ids: Tensor, lengths: Tensor, room: int, block: int | None = None
) -> Prompts:
    """Read right-padded prompts [b, p] with ``lengths`` [b]; the cache has ``room`` for tokens behind them, or gives
    blocks of so many columns."""
    width = int(lengths.max())
    first, place = _different(input_ids[:, :width], lengths)
    config: Any = model.config  # of transformers
    cache = preallocated_cache(config, width + room)
    # Passes through a sharded model are collectives, of which every process must make equally many.
    apart = can_be_joined(cache) and not is_sharded(model)
    limits: dict[str, Any] = {"tokens": _TOKENS} if apart else {"few": True}
    groups = [group.to(first.device) for group in groups_of_like_length(lengths[first], **limits)]
    found, caches = [], []
    for rows in (first[group] for group in groups):
        # Only the cache that goes on is made in the size that it will have. Blocks are for single tokens.
        caches.append(cache if len(groups) == 1 and block is None else DynamicCache(config=config))
        found.append(_read(read, input_ids[rows], lengths[rows], caches[-1]))
    logits = torch.cat(found)
    if caches[0] is not cache:
        cache = joined(caches, config, width + room, block)
    wanted = torch.argsort(torch.cat(groups))[place]
    if len(wanted) != len(first) or bool((wanted != torch.arange(len(first), device=wanted.device)).any()):
        cache.batch_select_indices(wanted)
        logits = logits[wanted]
    mask = torch.arange(width, device=lengths.device) >= (width - lengths).unsqueeze(1)
    return Prompts(logits, cache, mask, lengths)


def _different(input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """One row of each different prompt, and for every row [b] which of these it is."""
    real = torch.arange(input_ids.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    # A pad token may be a token of the prompt, too.
    different, place = torch.unique(torch.where(real, input_ids, -1), dim=0, return_inverse=True)
    rows = torch.arange(len(lengths), device=lengths.device)
    if len(different) == len(lengths):
        return rows, rows
    return rows.new_full((len(different),), len(rows)).scatter_reduce_(0, place, rows, "amin"), place


def _read(read: NextLogits, input_ids: Tensor, lengths: Tensor, cache: DynamicCache) -> Tensor:
    width = int(lengths.max())
    offset = torch.arange(width, device=lengths.device) - (width - lengths).unsqueeze(1)
    positions = offset.clamp(min=0)
    mask = offset >= 0
    return read(input_ids.gather(1, positions), positions, None if mask.all() else mask, cache)
