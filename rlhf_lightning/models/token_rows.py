"""Single rows of the embedding and of the output layer, for an adapter that trains them in full."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from rlhf_lightning.models.lora import Lora

KEY = "model.lora.trainable_tokens"
SPECIAL = ("eos", "bos", "pad")


def with_token_ids(lora: Lora, name: str, *, revision: str | None, trust_remote_code: bool) -> Lora:
    """The settings with ids in place of names of tokens, by the tokenizer that stands beside the model.

    Args:
        lora: with ``trainable_tokens``.
        name, revision, trust_remote_code: of the model and its tokenizer.

    Raises:
        UserError: no tokenizer there, or one that does not have such a token.
    """
    if all(isinstance(token, int) for token in lora.trainable_tokens):
        return lora
    from rlhf_lightning.data import Encoder

    tokenizer = Encoder.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code).tokenizer
    vocabulary = tokenizer.get_vocab()
    ids = []
    for token in lora.trainable_tokens:
        found = token if isinstance(token, int) else vocabulary.get(token)
        if found is None and token in SPECIAL:
            found = getattr(tokenizer, f"{token}_token_id")
        if found is None:
            raise UserError(
                f"{KEY}: the tokenizer of {name} has no token {token!r}: give one that it has, by its text or id, or "
                f"one of {', '.join(SPECIAL)}"
            )
        ids.append(int(found))
    return dataclasses.replace(lora, trainable_tokens=ids)


def token_rows(model: Any, lora: Lora, head: str | None) -> dict[str, list[int]]:
    """Which rows of which layers train, as peft's ``trainable_token_indices``: those of the input embedding and, of a
    language model, of an output layer with weights of its own; tied ones follow the embedding.

    Args:
        model: a transformers model.
        lora: with ids as ``trainable_tokens``.
        head: of a model without an output layer, such as a scalar head.

    Raises:
        UserError: what is no id, an id without a row, a layer that is trained in full already or has a bias.
    """
    if not lora.trainable_tokens:
        return {}
    if not all(isinstance(token, int) for token in lora.trainable_tokens):
        raise UserError(f"{KEY}={list(lora.trainable_tokens)}: without a tokenizer only ids are known")
    ids = sorted({cast(int, token) for token in lora.trainable_tokens})
    embedding = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    beyond = [token for token in ids if not 0 <= token < rows]
    if beyond:
        raise UserError(f"{KEY}: id {beyond[0]} has no row in {type(model).__name__}'s embedding, which has {rows}")
    layers = [embedding]
    output = model.get_output_embeddings() if head is None else None
    if output is not None and output.weight is not embedding.weight:
        if getattr(output, "bias", None) is not None:
            raise UserError(
                f"{KEY}: the output layer of {type(model).__name__} has a bias, with which peft does not train single "
                "rows; name the layer in model.lora.modules_to_save instead"
            )
        layers.append(output)
    found = {name: ids for name, module in model.named_modules() if any(module is layer for layer in layers)}
    whole = [name for name in found for other in lora.modules_to_save if f".{name}".endswith(f".{other}")]
    if whole:
        raise UserError(f"{KEY}: {whole[0]} is trained in full by model.lora.modules_to_save; give one of the two")
    return found


def foreign_rows(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What peft asks an adapter for that it does not have, because another adapter of the model does: empty rows for
    layers of which ``state`` trains none, and the names of layers that only repeat the rows of the tied embedding."""
    from peft.utils import TrainableTokensWrapper

    empty, aliases = {}, []
    for name, module in model.named_modules():
        if isinstance(module, TrainableTokensWrapper):
            key = f"{name}.token_adapter.trainable_tokens_delta"
            if module.token_adapter.tied_adapter is not None:
                aliases.append(key)
            elif key not in state:
                empty[key] = torch.empty(0)
    return empty, tuple(aliases)


def refuse_tied(model: Any) -> None:
    """Refuse factors on a layer whose weight another layer has, too: merging would change both.

    Raises:
        UserError: the embedding or the output layer of a model that ties them has factors.
    """
    pair = [model.get_input_embeddings(), model.get_output_embeddings()]
    bases = [getattr(layer, "base_layer", layer) for layer in pair]
    if None in pair or all(layer is base for layer, base in zip(pair, bases, strict=True)):
        return
    one, other = (cast(nn.Module, base) for base in bases)
    if one.weight is other.weight:
        raise UserError(
            f"model.lora.target_modules: {type(model).__name__} has one weight for its embedding and its output layer, "
            f"so that factors on one of them cannot be merged; leave it out, or train single tokens with {KEY}"
        )
