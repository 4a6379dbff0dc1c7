"""The longest sequence that a model can read."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlhf_lightning.errors import UserError


def context_length(model: nn.Module | None) -> int | None:
    """Most tokens of a sequence that the model's configuration names, or a model of one's own
    (:class:`~rlhf_lightning.models.Policy`) as its ``context_length``; ``None`` where none is named."""
    context = getattr(text_config(model), "max_position_embeddings", getattr(model, "context_length", None))
    return context if isinstance(context, int) else None


def text_config(model: nn.Module | None) -> Any:
    """The configuration of a model's language part, which is all of it except in models of several modalities."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def check_context(model: nn.Module, tokens: int) -> None:
    """Refuse sequences beyond the model's context: learned positions end there, rotary ones lose their meaning.

    Raises:
        UserError: ``tokens`` exceeds the context that the configuration names.
    """
    context = context_length(model)
    if context is not None and tokens > context:
        raise UserError(
            f"a sequence of {tokens} tokens does not fit the model's context of {context}; lower data.max_length "
            "(data.max_prompt_length and module.max_new_tokens in PPO) or take a model with a longer context"
        )
