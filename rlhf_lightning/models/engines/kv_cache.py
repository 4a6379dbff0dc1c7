"""A KV cache of the final size from the start, so that a decoding step writes one token instead of copying all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf_lightning.models.dtypes import computed_in


class PreallocatedLayer(DynamicLayer):
    """Keys and values of a layer of full attention, [b, h, ``width``, d], of which the first columns are filled.

    It answers as transformers' ``DynamicLayer`` does: ``keys`` and ``values`` are views of what is filled. A layer
    that is full grows by half.

    With ``block`` attention is given whole blocks of columns, the last of which need not be full: zeros, to be masked,
    stand at its end. ``width`` then is what is there and grows by blocks, so that what attention reads has no gaps.

    Args:
        width: tokens that there will be.
        block: columns of a block.
    """

    def __init__(self, width: int, block: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own has no types
        self.width = 0 if block else width
        self.block = block
        self._buffers: list[Tensor] = []

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that attention will be given with so many more tokens, and where they begin."""
        return self._whole_blocks(self.get_seq_length() + query_length), 0

    def _whole_blocks(self, columns: int) -> int:
        return columns if self.block is None else columns + -columns % self.block

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [b, h, n, d]; returns all keys and values up to there."""
        key_states, value_states = as_attention_reads(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._make_room(key_states, value_states, start, end)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        if self.block is not None:
            return self._buffers[0], self._buffers[1]
        return self.keys, self.values

    def _make_room(self, keys: Tensor, values: Tensor, start: int, end: int) -> None:
        if self._buffers and end <= self.width:
            return
        if self.block is not None:
            self.width = self._whole_blocks(end)
        while end > self.width:
            self.width += max(1, self.width // 2)
        bigger = [self._new(states, *states.shape[:2], self.width, states.shape[-1]) for states in (keys, values)]
        for buffer, old in zip(bigger, self._buffers, strict=bool(self._buffers)):
            buffer[:, :, :start] = old[:, :, :start]
        self._buffers = bigger

    def spoil(self, number: float) -> None:
        """Write a number among the values that are to be masked."""
        self._buffers[1][:, :, self.get_seq_length() :] = number

    def _new(self, like: Tensor, *shape: int) -> Tensor:
        # What is masked is multiplied by 0, and must not be infinite.
        return like.new_empty(shape) if self.block is None else like.new_zeros(shape)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows. Of rows in order, in fewer number, the memory is kept, too."""
        filled = self.get_seq_length()
        if not filled:
            return
        if len(indices) > self._buffers[0].shape[0]:
            chosen = [self._new(buffer, len(indices), *buffer.shape[1:]) for buffer in self._buffers]
        else:
            chosen = [buffer[: len(indices)] for buffer in self._buffers]
        for buffer, old in zip(chosen, self._buffers, strict=True):
            buffer[:, :, :filled] = old[indices, :, :filled]
        self._buffers = chosen
        self.keys, self.values = (buffer[:, :, :filled] for buffer in self._buffers)

    def reset(self) -> None:
        """Forget everything."""
        self._buffers = []
        super().reset()


def as_attention_reads(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast rotary positions leave keys in float32 and values in bfloat16, and each step's attention would
    convert all keys anew; a cache holds both as attention reads them."""
    return keys.to(computed_in(keys)), values.to(computed_in(values))


def preallocated_cache(config: Any, width: int, block: int | None = None) -> DynamicCache:
    """The model's own kind of cache, its layers of full attention made for ``width`` tokens or to give blocks; those of
    a sliding window and others, which are of a fixed size anyway, are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(width, block) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_be_joined(cache: DynamicCache) -> bool:
    """Whether rows of several caches can stand in one: where every layer keeps all tokens."""
    return bool(cache.layers) and all(type(layer) in (PreallocatedLayer, DynamicLayer) for layer in cache.layers)


def block_of(cache: DynamicCache) -> int:
    """Columns of the blocks in which a cache is read."""
    return getattr(cache.layers[0], "block", None) or 1


def joined(caches: list[DynamicCache], config: Any, width: int, block: int | None = None) -> DynamicCache:
    """The rows of several caches in one, their last tokens in one column; in front of shorter ones stands what is
    masked."""
    longest = max(cache.get_seq_length() for cache in caches)
    whole = preallocated_cache(config, width, block)
    layer: Any  # of full attention, as can_be_joined has seen
    for number, layer in enumerate(whole.layers):
        parts = [cache.layers[number] for cache in caches]
        layer.update(*(_stacked([getattr(part, name) for part in parts], longest) for name in ("keys", "values")))
    return whole


def _stacked(states: list[Tensor], longest: int) -> Tensor:
    """Rows [b_i, h, n_i, d] below one another, [Σ b, h, longest, d], moved to the right."""
    return torch.cat([torch.nn.functional.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in states])
