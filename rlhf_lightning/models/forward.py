"""Forward passes of Hugging Face models over right-padded batches, with only the positions that are needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import head_logprobs
from rlhf_lightning.models.context import check_context, text_config
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.policy import is_own
from rlhf_lightning.models.quantization import computes_exactly
from rlhf_lightning.models.sdpa import teach_sdpa
from rlhf_lightning.models.sequence_attention import Layout, attention_arguments
from rlhf_lightning.models.shapes import filled, filled_states
from rlhf_lightning.models.sharding import through


def hidden_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Last hidden state of a transformers model without its head, positions given explicitly.

    Right-padded rows need no mask: under causal attention a real token never sees the padding behind it. With a
    mask (left padding), positions count the real tokens, so that a score does not depend on the padding side.

    Shapes:
        input_ids: [b, s]; attention_mask: [b, s], bool, or ``None`` for right padding. Result: [b, s, d].

    Raises:
        UserError: rows longer than the model's context.
    """
    check_context(model, input_ids.shape[1])
    teach_sdpa()
    backbone: nn.Module = model.base_model  # type: ignore[assignment]  # a module, though nn.Module does not say so
    accepted = inspect.signature(backbone.forward).parameters
    rows, width = input_ids.shape
    if attention_mask is None:
        input_ids = filled(input_ids, model)
    arguments: dict[str, Any] = {"input_ids": input_ids}
    if attention_mask is None:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
    else:
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        arguments["attention_mask"] = attention_mask.long()
    if "position_ids" in accepted:
        arguments["position_ids"] = positions
    if "use_cache" in accepted:
        arguments["use_cache"] = False
    hidden: Tensor = backbone(**arguments).last_hidden_state
    return hidden[:rows, :width]


def last_states(model: nn.Module, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Hidden state [b, d] at the last real token of right-padded sequences [b, s] with ``lengths`` [b]."""
    rows = torch.arange(input_ids.shape[0], device=input_ids.device)
    return hidden_states(model, input_ids)[rows, lengths - 1]


def masked_states(
    model: nn.Module, input_ids: Tensor, position_ids: Tensor, sees: Tensor | BlockMask | Layout
) -> Tensor:
    """Last hidden state of a transformers model where every token attends to chosen ones.

    Not every combination of architecture and ``attn_implementation`` reads such a mask, and it replaces a sliding
    window: who calls this has measured that the model heeds it.

    Shapes:
        input_ids, position_ids: [b, s]; sees: [b, s, s], bool, ``sees[:, i, j]``: token i attends to token j; or
            a mask of FlexAttention; or, of one row, a layout of what sdpa is to attend to
            (:func:`~rlhf_lightning.models.sequence_attention.reads_layouts`).
        Result: [b, s, d].
    """
    backbone: nn.Module = model.base_model  # type: ignore[assignment]  # a module, though nn.Module does not say so
    arguments: dict[str, Any] = {"attention_mask": sees}
    if isinstance(sees, Layout):
        arguments = attention_arguments(sees)
    elif isinstance(sees, Tensor):
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)
        arguments["attention_mask"] = mask.unsqueeze(1)
    arguments["position_ids"] = position_ids
    if "use_cache" in inspect.signature(backbone.forward).parameters:
        arguments["use_cache"] = False
    hidden: Tensor = backbone(input_ids=input_ids, **arguments).last_hidden_state
    return hidden


class TokenLogprobs:
    """Log-probabilities and entropies of chosen tokens under a causal language model.

    A model of one's own (:class:`~rlhf_lightning.models.Policy`) gives logits itself, of which the chosen are taken.

    One object serves old, new, reference, SFT and pretraining log-probabilities, so that a ratio before any update
    is 1. The vocabulary projection reads the chosen positions only, ``chunk_size`` of them at a time.

    Args:
        model: a causal language model.
        temperature: divides the logits, as in sampling.
        chunk_size: tokens whose logits exist at one time.
        within: a context that is entered around each forward pass, such as one that switches adapters off.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        chunk_size: int = 1024,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model = model
        self.within = within
        self.temperature = temperature
        self.chunk_size = chunk_size
        self._head: Callable[[Tensor], Tensor] | None = None

    def __call__(
        self, input_ids: Tensor, targets: Tensor, *, hidden: Tensor | None = None, entropy: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of every target token given what stands before it, and the entropy there.

        Shapes:
            input_ids: [b, s], right padded; targets: [b, s], bool, the tokens asked for (never the first).
            hidden: [b, s, d], the model's last hidden states, if they are known already.
            entropy: whether it is asked for; else it is 0.
            Results: [n] each, n the number of targets, row by row.

        Raises:
            ValueError: a first token is asked for, which nothing stands before.
        """
        if targets[:, 0].any():
            raise ValueError("the first token of a sequence has no log-probability: nothing stands before it")
        with self.within():
            if is_own(self.model):
                check_context(self.model, input_ids.shape[1])
                return self._select(self.model(input_ids), nn.Identity(), input_ids, targets, entropy)
            if self._head is None:
                self._head = logits_head(self.model)
            found: tuple[Tensor, Tensor] = through(
                self.model, self._read, self._head, input_ids, targets, hidden, entropy
            )
            return found

    def _read(
        self, head: Callable[[Tensor], Tensor], input_ids: Tensor, targets: Tensor, hidden: Tensor | None, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        states = hidden_states(self.model, input_ids) if hidden is None else hidden
        return self._select(states, head, input_ids, targets, entropy)

    def _select(
        self, states: Tensor, head: Callable[[Tensor], Tensor], input_ids: Tensor, targets: Tensor, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        chosen = states[:, :-1][targets[:, 1:]]
        tokens = input_ids[:, 1:][targets[:, 1:]]
        options: Any = {"temperature": self.temperature, "chunk_size": self.chunk_size, "entropy": entropy}
        states = filled_states(chosen, self.model)
        logprobs, spread = head_logprobs(states, head, pad(tokens, (0, len(states) - len(tokens))), **options)
        return logprobs[: len(tokens)], spread[: len(tokens)]


def logits_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The map from hidden states [n, d] to logits [n, v], checked once against the model's own forward pass.

    Some models do more than a linear projection. Soft capping (Gemma 2) is applied; anything else that makes the
    two disagree is an error, because log-probabilities would then be wrong without a sign of it.

    Raises:
        UserError: the model's logits are not those of its output embeddings.
    """
    # nn.Module declares no methods of transformers.
    projection: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    cap = getattr(text_config(model), "final_logit_softcapping", None)

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = projection(hidden)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    with generation_mode(model):
        # Of the size that will be read: the same numbers round otherwise in another.
        probe = filled(torch.arange(4, device=next(model.parameters()).device).unsqueeze(0), model)
        expected = model(input_ids=probe).logits.float()
        found = through(model, lambda: head(hidden_states(model, probe))).float()
    tolerance = 1e-4 if computes_exactly(model) else 5e-2
    if (expected - found).abs().max() > tolerance * expected.abs().max().clamp(min=1.0):
        raise UserError(
            f"the logits of {type(model).__name__} are not a plain projection of its last hidden state; "
            "this architecture is not supported yet"
        )
    return head
