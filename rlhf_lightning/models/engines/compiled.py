"""Decoding steps under ``torch.compile``: every tensor of a shape that was seen before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StaticCache
from transformers.cache_utils import StaticLayer

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.compiler import check_compiler, compile_options
from rlhf_lightning.models.engines.kv_cache import as_attention_reads, can_be_joined, preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.engines.prompts import Prompts
from rlhf_lightning.models.sharding import is_sharded

# Every shape is compiled once, for seconds: rows halve down to the smallest number, widths are multiples.
_FEWEST_ROWS = 8
_WIDTH = 64
_INSTEAD = "set rollout.engine.compile=false"

Key = tuple[int, int]
Pass = Callable[[Tensor, Tensor, Tensor, StaticCache], Tensor]


class Compiled:
    """The decoding step of a model, compiled for each shape the first time that it comes up, and kept: new weights in
    the same model need no compilation. On a GPU the step is a CUDA graph, and the caches whose addresses it knows are
    kept, too; elsewhere they go with the batch.

    Args:
        compile: ``False`` leaves the step as it is, on the same static cache.
    """

    def __init__(self, *, compile: bool = True) -> None:
        self.compile = compile
        self._made: tuple[nn.Module, Pass] | None = None
        self._caches: dict[Key, StaticCache] = {}

    def steps(self, model: nn.Module, read: NextLogits, prompts: Prompts, steps: int) -> CompiledSteps:
        """Steps behind prompts that have been read, at most so many."""
        if self._made is None or self._made[0] is not model:
            self._caches.clear()
            self._made = model, self._compiled(read, prompts.logits.device.type)
        return CompiledSteps(self._made[1], self._cache_of(model), prompts, steps)

    def _compiled(self, read: NextLogits, device_type: str) -> Pass:
        def decode(tokens: Tensor, positions: Tensor, mask: Tensor, cache: StaticCache) -> Tensor:
            return read(tokens, positions, mask, cache)

        if not self.compile:
            return decode
        options = compile_options(**({"mode": "reduce-overhead"} if device_type == "cuda" else {}))
        compiled: Pass = torch.compile(decode, dynamic=False, **options)
        return compiled

    def _cache_of(self, model: nn.Module) -> Callable[[Key, bool], StaticCache]:
        def find(key: Key, lasting: bool) -> StaticCache:
            if key in self._caches:
                self._caches[key].reset()  # type: ignore[no-untyped-call]  # transformers' own has no types
                return self._caches[key]
            cache = StaticCache(config=model.config, max_cache_len=key[1])  # type: ignore[arg-type]  # of transformers
            cache.layers = [_OneTypeLayer(key[1]) for _ in cache.layers]
            if lasting:
                self._caches[key] = cache
            return cache

        return find

    def check(self, model: nn.Module) -> None:
        """Refuse what cannot be compiled.

        Raises:
            UserError: a sharded model, layers of another kind than full attention, no compiler.
        """
        if is_sharded(model):
            raise UserError(f"rollout.engine.compile=true cannot compile the passes of a sharded model; {_INSTEAD}")
        if not can_be_joined(preallocated_cache(model.config, 1)):
            raise UserError(
                f"rollout.engine.compile=true needs layers that keep all tokens, and {type(model).__name__} has some "
                f"with a sliding window or a state of another kind; {_INSTEAD}"
            )
        if self.compile:
            check_compiler(next(model.parameters()).device, key="rollout.engine.compile=true", instead=_INSTEAD)


class _OneTypeLayer(StaticLayer):  # type: ignore[no-untyped-call]  # transformers' own has no types
    """transformers' layer, which has one dtype for both, with :func:`as_attention_reads`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return super().update(*as_attention_reads(key_states, value_states), *args, **kwargs)


class CompiledSteps:
    """Steps over a cache of a fixed width, for a number of rows that halves as they end. Surplus rows repeat the first
    and are not looked at; columns that are not filled yet are masked."""

    def __init__(
        self, decode: Pass, cache_of: Callable[[Key, bool], StaticCache], prompts: Prompts, steps: int
    ) -> None:
        self._decode, self._cache_of = decode, cache_of
        self._filled = prompts.mask.shape[1]
        self._width = -(-(self._filled + steps) // _WIDTH) * _WIDTH
        self._mask = torch.nn.functional.pad(prompts.mask, (0, self._width - self._filled))
        self._positions = prompts.positions
        self._place(torch.arange(len(self._mask), device=self._mask.device), prompts.cache.layers)

    def __call__(self, chosen: Tensor) -> Tensor:
        """See :class:`~rlhf_lightning.models.engines.steps.Steps`."""
        self._mask[:, self._filled] = True
        self._filled += 1
        if chosen.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch's own has no types
        tokens = chosen[self._rows].unsqueeze(1)
        logits = self._decode(tokens, self._positions.unsqueeze(1), self._mask, self._cache)
        self._positions = self._positions + 1
        return logits[: len(chosen)]

    def going_on(self, remaining: int, rows: int) -> int:
        """See :class:`~rlhf_lightning.models.engines.steps.Steps`."""
        return max(remaining, 1) if _bucket(remaining) < _bucket(rows) else rows

    def keep(self, rows: Tensor) -> None:
        """See :class:`~rlhf_lightning.models.engines.steps.Steps`."""
        self._place(rows, self._cache.layers)

    def _place(self, rows: Tensor, layers: Sequence[Any]) -> None:
        """Put the given rows of layers with keys and values [b, h, n, d] into a cache of their own."""
        count = _bucket(len(rows))
        chosen = torch.cat([rows, rows[:1].expand(count - len(rows))])
        self._cache = self._cache_of((count, self._width), rows.device.type == "cuda")
        for number, layer in enumerate(layers):
            self._cache.update(*(part[chosen, :, : self._filled] for part in (layer.keys, layer.values)), number)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]
        self._rows = torch.arange(count, device=rows.device)
        self._rows[len(rows) :] = 0


def _bucket(rows: int) -> int:
    """The next power of two, at least the smallest."""
    return max(_FEWEST_ROWS, 1 << (rows - 1).bit_length())
