"""Whether a tokenizer's ids have rows in a model's embedding."""

from __future__ import annotations

import logging

from torch import Tensor, nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError

log = logging.getLogger(__name__)


def check_vocabulary(model: nn.Module | None, encoder: Encoder | None, *, role: str = "model") -> None:
    """Refuse a tokenizer with more tokens than the model has rows.

    A smaller vocabulary is usual, because embeddings are made a multiple of 64 or 128 rows. The rows that are left over
    stay part of the distribution: sampling does not leave them out, since the log-probabilities that are trained on
    contain them too. :meth:`~rlhf_lightning.data.Encoder.decode` leaves them out of the text.

    Special tokens beyond the embedding that no stage puts in by itself are warned of only: the tokenizer of Gemma 3 has
    one for images, which its text models cannot read.

    Args:
        model: of transformers; any other, which does not show its embedding, is left alone, as is ``None``.
        encoder: whose ids the model reads; ``None`` is left alone.
        role: of the model, for the error.

    Raises:
        UserError: names the sizes and a token that has no row.
    """
    rows = embedding_rows(model)
    if encoder is None or rows is None:
        return
    vocabulary: dict[str, int] = encoder.tokenizer.get_vocab()
    beyond = {token: index for token, index in vocabulary.items() if index >= rows}
    added = getattr(encoder.tokenizer, "added_tokens_decoder", {})
    own = {encoder.eos_token_id, encoder.pad_token_id, encoder.bos_token_id}
    refused = {t: i for t, i in beyond.items() if i in own or not getattr(added.get(i), "special", False)}
    if refused:
        token, index = min(refused.items(), key=lambda item: item[1])
        raise UserError(
            f"the tokenizer is larger than the {role}'s embedding: it has {max(vocabulary.values()) + 1} ids and the "
            f"embedding {rows} rows, so {token!r} (id {index}) has none; take the {role}'s own tokenizer, or resize "
            "the model (resize_token_embeddings) and save both in one folder"
        )
    if beyond:
        shown = ", ".join(sorted(beyond))
        log.warning("the %s has no embedding for the special tokens %s: texts must not spell them out", role, shown)


def embedding_rows(model: nn.Module | None) -> int | None:
    """Rows of a model's input embedding, also of one that an adapter wraps; None where none is shown."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if isinstance(embedding, nn.Embedding):
        return embedding.num_embeddings
    # Of an embedding with trained rows, peft gives as its weight one that it puts together.
    weight = getattr(getattr(embedding, "token_adapter", embedding), "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) and weight.ndim == 2 else None
