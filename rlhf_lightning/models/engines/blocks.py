"""A KV cache that is read in whole blocks, where that is faster and the model heeds the mask over what is empty."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from rlhf_lightning.functional.processor import multiplies_bf16
from rlhf_lightning.models.context import context_length, text_config
from rlhf_lightning.models.dtypes import computed_in
from rlhf_lightning.models.engines.kv_cache import can_be_joined, joined, preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.shapes import in_half_precision
from rlhf_lightning.models.sharding import is_sharded

_BLOCK = 16
_READ = 3  # tokens
_FAR = 1e4  # from anything that values are
# By the attention of the model and what it computes in.
_known: weakref.WeakKeyDictionary[nn.Module, dict[Any, bool]] = weakref.WeakKeyDictionary()


def block_for(model: nn.Module, columns: int) -> int | None:
    """Columns of the blocks in which a model's cache of in all so many is best read, ``None`` for none.

    In half precision on a CPU oneDNN multiplies batches of matrices without gaps between them alone, so that all keys
    and values were copied in each step, and compiles a product for each number of columns.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or not in_half_precision(model) or not multiplies_bf16() or is_sharded(model):
        return None
    context = context_length(model)
    if context is not None and columns + -columns % _BLOCK > context:  # for which some models have a mask of their own
        return None
    known = _known.setdefault(model, {})
    key = text_config(model)._attn_implementation, computed_in(weight)
    if key not in known:
        known[key] = _heeds_the_mask(model)
    return _BLOCK if known[key] else None


def _heeds_the_mask(model: nn.Module) -> bool:
    """Whether a step behind a few tokens gives the same where masked columns hold what would change everything."""
    config: Any = model.config  # of transformers
    if not can_be_joined(preallocated_cache(config, 1)):
        return False
    read = NextLogits(model, hooks=False)  # nobody who counts passes asked for these
    positions = torch.arange(_READ + 1).unsqueeze(0)
    tokens = positions % text_config(model).vocab_size
    mask = torch.ones(1, _BLOCK, dtype=torch.bool)
    mask[:, _READ + 1 :] = False
    cache = DynamicCache(config=config)
    read(tokens[:, :_READ], positions[:, :_READ], None, cache)
    whole: Any = joined([cache], config, _BLOCK, _BLOCK)
    for layer in whole.layers:
        layer.spoil(_FAR)
    try:
        found = read(tokens[:, _READ:], positions[:, _READ:], mask, whole)
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False
    expected = read(tokens[:, _READ:], positions[:, _READ:], None, cache)
    size = expected.abs().max()
    # Logits that are all 0 tell nothing.
    return bool(size > 0) and bool((found - expected).abs().max() <= 0.1 * size)
