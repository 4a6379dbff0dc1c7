"""A KV cache that is read in whole blocks, where that is faster and the model heeds the mask over what is empty."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from rlhf_lightning.models.engines.kv_cache import can_be_joined, joined, preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.shapes import in_half_precision
from rlhf_lightning.models.sharding import is_sharded

_BLOCK = 16
_READ = 3  # tokens
_FAR = 1e3  # from anything that keys and values are
_known: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def block_for(model: nn.Module) -> int | None:
    """Columns of the blocks in which a model's cache is best read, ``None`` for none.

    In half precision on a CPU oneDNN multiplies batches of matrices without gaps between them alone, so that all keys
    and values were copied in each step, and compiles a product for each number of columns.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    if not on_cpu or not in_half_precision(model) or is_sharded(model):
        return None
    if model not in _known:
        _known[model] = _heeds_the_mask(model)
    return _BLOCK if _known[model] else None


def _heeds_the_mask(model: nn.Module) -> bool:
    """Whether a step behind a few tokens gives the same where masked columns hold what would change everything."""
    config: Any = model.config  # of transformers
    if not can_be_joined(preallocated_cache(config, 1)):
        return False
    read = NextLogits(model, hooks=False)  # nobody who counts passes asked for these
    tokens = torch.arange(_READ + 1).unsqueeze(0)
    positions = tokens.clone()
    mask = torch.ones(1, _BLOCK, dtype=torch.bool)
    mask[:, _READ + 1 :] = False
    cache = DynamicCache(config=config)
    read(tokens[:, :_READ], positions[:, :_READ], None, cache)
    whole: Any = joined([cache], config, _BLOCK, _BLOCK)
    for layer in whole.layers:
        layer.fill(_FAR)
    try:
        found = read(tokens[:, _READ:], positions[:, _READ:], mask, whole)
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False
    expected = read(tokens[:, _READ:], positions[:, _READ:], None, cache)
    return bool((found - expected).abs().max() <= 0.1 * expected.abs().max().clamp(min=1.0))
