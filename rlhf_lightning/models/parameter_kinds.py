"""What a trained weight is: part of an embedding or head, a bias or norm weight, or a hidden matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn

Kind = Literal["embedding", "vector", "matrix"]


def trained_by_kind(model: nn.Module) -> Iterator[tuple[nn.Parameter, Kind]]:
    """Each trainable parameter with its kind: ``embedding``, input and output embeddings and heads with one output;
    ``vector``, biases and norm weights; ``matrix``, the hidden matrices."""
    embeddings = _embeddings(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            outer = id(parameter) in embeddings or parameter.ndim != 2 or 1 in parameter.shape
            yield parameter, "vector" if parameter.ndim < 2 else "embedding" if outer else "matrix"


def _embeddings(model: nn.Module) -> set[int]:
    """Identities of the weights of all input and output embeddings below ``model``, and of what an adapter trains of
    them, which peft keeps as single parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ParameterDict | nn.ParameterList)]
    single = {id(parameter) for module in lists for parameter in module.parameters()}
    found: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for module in model.modules():
        output = getattr(module, "get_output_embeddings", lambda: None)()
        if isinstance(output, nn.Module):
            # Of a layer with trained rows, peft gives as its weight one that it puts together.
            found.append(getattr(output, "token_adapter", output))
    return single | {id(module.weight) for module in found}
