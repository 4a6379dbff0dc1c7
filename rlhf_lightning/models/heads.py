"""A scalar per token: the shape of reward models and of value models."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.forward import hidden_states, last_states


class ScalarModel(nn.Module):
    """A transformers sequence-classification model with one label, read at any token.

    A reward model is read at the last token of a sequence, a value model at every position from which a response
    token was chosen. ``model`` stays a plain transformers model, so its folder loads without this package.

    Args:
        model: from ``AutoModelForSequenceClassification`` with ``num_labels=1``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def head(self) -> nn.Linear:
        """The linear map from a hidden state to the scalar."""
        head = getattr(self.model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            raise UserError(
                f"{type(self.model).__name__} has no linear head `score` with one output, which is what a reward or "
                "value model needs; take a decoder-only architecture that transformers can classify sequences with"
            )
        return head

    def reset_head(self, generator: torch.Generator | None = None) -> None:
        """Draw the head anew from N(0, 1/(d + 1)), small enough for first scores near 0 (Stiennon et al. 2020)."""
        with torch.no_grad():
            self.head.weight.normal_(0.0, 1.0 / math.sqrt(self.head.in_features + 1), generator=generator)

    def is_head_of_seed(self, seed: int) -> bool:
        """Whether the head is what :meth:`reset_head` draws from ``seed`` on a CPU, so that it has learned nothing."""
        weight = self.head.weight.detach().cpu()
        drawn = torch.empty_like(weight)
        deviation = 1.0 / math.sqrt(self.head.in_features + 1)
        return torch.equal(weight, drawn.normal_(0.0, deviation, generator=torch.Generator().manual_seed(seed)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scalars [b, s] of right-padded ``input_ids`` [b, s], or of any padding with its ``attention_mask``."""
        scalars: Tensor = self.head(hidden_states(self.model, input_ids, attention_mask)).squeeze(-1)
        return scalars

    def last_hidden(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Hidden state [b, d] at the last real token of right-padded sequences [b, s] with ``lengths`` [b]."""
        return last_states(self.model, input_ids, lengths)

    def score(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores [b]: the scalar at the last real token of right-padded sequences [b, s]."""
        scores: Tensor = self.head(self.last_hidden(input_ids, lengths)).squeeze(-1)
        return scores
