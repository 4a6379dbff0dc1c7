"""One pass of a causal language model behind its cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from rlhf_lightning.models.sdpa import teach_sdpa


class NextLogits:
    """Logits of what follows the tokens that stand behind a cache.

    Args:
        model: a transformers causal language model.
        hooks: whether those of the model itself see its passes.
    """

    def __init__(self, model: nn.Module, *, hooks: bool = True) -> None:
        teach_sdpa()
        self.model = model
        self._pass: Callable[..., Any] = model if hooks else model.forward
        accepted = inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._takes_positions = "position_ids" in accepted

    def __call__(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
        """Logits [b, v], float32, behind the tokens [b, n] and a cache of c earlier ones, which grows by n.

        Shapes:
            tokens, positions: [b, n]; mask: [b, c + n], bool, ``None`` if nothing is padding.
        """
        options: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
        if mask is not None:
            options["attention_mask"] = mask.long()
        output = self._pass(input_ids=tokens, past_key_values=cache, use_cache=True, **options, **self._options)
        logits: Tensor = output.logits[:, -1].float()
        return logits
