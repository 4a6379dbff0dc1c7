"""A model of a comparison, with its tokenizer and its log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.models import (
    RewardModelScorer,
    TokenLogprobs,
    base_of_adapter,
    check_vocabulary,
    load_language_model,
)


class ModelSource(NamedTuple):
    """Where a model comes from and in what form; equal sources are loaded once.

    Args:
        name: a local folder, of a model or of an adapter, or a hub id.
        dtype, revision, attn_implementation, trust_remote_code: as in
            :func:`~rlhf_lightning.models.load_causal_lm`; the tokenizer is of the same revision.
    """

    name: str
    dtype: str = "float32"
    revision: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def of(self, spec: Mapping[str, Any]) -> ModelSource:
        """This source with what ``spec`` has of it in place of its own."""
        return self._replace(**{key: value for key, value in spec.items() if key in self._fields})


class LoadedModel(NamedTuple):
    """A frozen model, its encoder, and its log-probabilities at the temperature of the samples."""

    model: nn.Module
    encoder: Encoder
    logprobs: TokenLogprobs


def device_of(asked: str | None) -> str:
    """The device that was asked for, else the accelerator if there is one."""
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def load_model(source: ModelSource, device: str, temperature: float) -> LoadedModel:
    """The language model of a source.

    Raises:
        UserError: what :func:`~rlhf_lightning.models.load_causal_lm` refuses; a tokenizer larger than the embedding.
    """
    model = load_language_model(**source._asdict()).to(device)  # type: ignore[arg-type]  # fields of several types, by name
    model.requires_grad_(False).eval()
    encoder = load_encoder(source)
    check_vocabulary(model, encoder)
    return LoadedModel(model, encoder, TokenLogprobs(model, temperature=temperature))


def load_encoder(source: ModelSource) -> Encoder:
    """The encoder of a source; an adapter without a tokenizer has that of its base."""
    name = source.name
    base = base_of_adapter(name)
    if base is not None and not (Path(name) / "tokenizer_config.json").is_file():
        name = base
    return Encoder.from_pretrained(name, revision=source.revision, trust_remote_code=source.trust_remote_code)


def load_scorer(source: ModelSource, device: str) -> RewardModelScorer:
    """The reward model of a source."""
    return RewardModelScorer(**source._asdict()).to(device)
