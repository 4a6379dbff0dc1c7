"""transformers' sdpa, taught to read layouts of sequences, and to take plain products where those are faster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from rlhf_lightning.functional.processor import multiplies_bf16
from rlhf_lightning.models.dtypes import computed_in
from rlhf_lightning.models.plain_attention import plain_attention, suits_plain

if TYPE_CHECKING:
    from rlhf_lightning.models.sequence_attention import Layout

Attention = Callable[..., tuple[Tensor, Any]]


@functools.cache
def teach_sdpa() -> None:
    """Have all models that attend with sdpa, in this whole process, take ``sequence_layout`` and, on a CPU, plain
    products where those are faster (:func:`~rlhf_lightning.models.plain_attention.suits_plain`), which compute the same
    but for rounding and for queries that see nothing: in bfloat16, and within layouts in float32, too."""
    multiplies_bf16()  # known from here on, also where passes are compiled
    own: Attention = AttentionInterface()["sdpa"]  # type: ignore[no-untyped-call]  # transformers' own has no types

    def sdpa(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *arguments: Any,
        sequence_layout: Layout | None = None,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        if sequence_layout is not None:
            options.pop("is_causal", None)
            attention, states = functools.partial(_faster, own), [query, key, value]
            if torch.compiler.is_compiling() and sequence_layout.few_batches is not None:
                return sequence_layout.few_batches.attend(attention, module, states, options), None
            return _attend(sequence_layout, attention, module, states, options), None
        # In float32 padded passes gain less than the weights that are kept for gradients are worth.
        half = query.device.type == "cpu" and computed_in(query) == torch.bfloat16
        if not half or arguments or torch.compiler.is_exporting():  # to which bounds on sizes would be limits
            return own(module, query, key, value, attention_mask, *arguments, **options)
        return _faster(own, module, query, key, value, attention_mask, **options)

    AttentionInterface.register("sdpa", sdpa)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # shapes differ from batch to batch
def _attend(
    layout: Layout, attention: Attention, module: nn.Module, states: list[Tensor], options: dict[str, Any]
) -> Tensor:
    return layout.attend(attention, module, states, options)


def _faster(
    own: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Any]:
    if not (suits_plain(query, key) and _is_plain(module, query, key, attention_mask, options)):
        return own(module, query, key, value, attention_mask, **options)
    scaling, dropout = options.get("scaling"), options.get("dropout", 0.0)
    return plain_attention(query, key, value, attention_mask, scaling=scaling, dropout=dropout), None


# What sdpa also takes, and plain products do not.
_OWN = ("position_bias", "cache", "softcap", "output_attentions")


def _is_plain(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether it is asked for nothing but :func:`plain_attention`."""
    if any(options.get(name) is not None and options[name] is not False for name in _OWN):
        return False
    width, seen = query.shape[2], key.shape[2]
    if mask is not None:
        return mask.dtype == torch.bool and mask.shape[1:] == (1, width, seen)
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return width == 1 or bool(causal and width == seen)
