"""A scalar per token: the shape of reward models and of value models."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.forward import hidden_states, last_states
from rlhf_lightning.models.sharding import through

NEW_HEAD = "new_head"
"""In a configuration: fingerprints of the head as it was drawn, one for each dtype that it may be loaded in."""

Marks = dict[str, str]


def head_marks(weight: Tensor) -> Marks:
    """Short hashes of a head's weight by dtype; none of one without values."""
    if weight.is_meta:
        return {}
    return {str(dtype): _mark(weight, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}


def _mark(weight: Tensor, dtype: torch.dtype) -> str:
    values = weight.detach().cpu().to(dtype).float()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]


def check_trained_head(weight: Tensor, new: Marks | None, name: str) -> None:
    """Refuse a head that cannot be a trained one; ``new`` is what :func:`head_marks` gave when it was drawn, if known.

    Raises:
        UserError: zeros, no numbers, or the head as it was drawn.
    """
    if weight.is_meta:
        return
    fault = None
    if not bool(weight.isfinite().all()):
        fault = "holds what is no finite number"
    elif not bool(weight.any()):
        fault = "is all zeros, so that everything scores 0"
    elif new and new.get(str(weight.dtype)) == _mark(weight, weight.dtype):
        fault = "is as it was drawn and was never trained"
    if fault is not None:
        raise UserError(
            f"{name}: the score head {fault}; train a reward model (rlhf-train stage=reward) and give its folder, or "
            "for a value model alone ask for head=new"
        )


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
        # The configuration goes wherever the model is saved, so that a head which nobody trained is known there.
        setattr(self.model.config, NEW_HEAD, head_marks(self.head.weight))

    def check_head(self, name: str) -> None:
        """Refuse a head that cannot be a trained one.

        Args:
            name: of the model, for the error.

        Raises:
            UserError: a head of zeros or of what is no number, or one that is still as it was drawn.
        """
        check_trained_head(self.head.weight, getattr(self.model.config, NEW_HEAD, None), name)

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
        states: Tensor = through(self, last_states, self.model, input_ids, lengths)
        return states

    def score(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores [b]: the scalar at the last real token of right-padded sequences [b, s]."""
        scores: Tensor = through(self, self._score, input_ids, lengths)
        return scores

    def _score(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = self.head(last_states(self.model, input_ids, lengths)).squeeze(-1)
        return scores
