"""What a model will take, counted on the meta device: its weights are never made."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from rlhf_lightning.models.context import context_length, text_config
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.load_errors import naming
from rlhf_lightning.models.loading import load_causal_lm, load_options, load_scalar_model, loaded_dtype, read_config
from rlhf_lightning.models.lora import Lora, add_lora
from rlhf_lightning.models.parameter_kinds import trained_by_kind
from rlhf_lightning.models.quantization import Quantization
from rlhf_lightning.models.quiet import quiet_transformers
from rlhf_lightning.models.sharding import blocks
from rlhf_lightning.models.token_rows import with_token_ids
from rlhf_lightning.planning import ModelSize

PROBE = 16
"""Tokens of the shortest of three rows that are read to tell what is kept of a row whatever its length from what grows
with its length and with its square."""


def size_of_factory(factory: Callable[[], object] | None) -> ModelSize | None:
    """The size of the model that a factory would make; ``None`` for a factory that is no ``functools.partial`` of
    :func:`~rlhf_lightning.models.load_causal_lm` or :func:`~rlhf_lightning.models.load_scalar_model`, of which only
    calling it would tell."""
    made_by = {load_causal_lm: False, load_scalar_model: True}
    if not isinstance(factory, functools.partial) or factory.args or factory.func not in made_by:
        return None
    known = {name: value for name, value in factory.keywords.items() if name not in ("init", "head", "seed")}
    return model_size(scalar=made_by[factory.func], **known)


def model_size(
    *,
    name: str,
    scalar: bool = False,
    dtype: str = "float32",
    frozen_dtype: str | None = None,
    dropout: float | None = 0.0,
    residual_dropout: float | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    lora: Lora | None = None,
    quantization: Quantization | None = None,
    activation_checkpointing: bool = False,
) -> ModelSize:
    """The size of what :func:`~rlhf_lightning.models.load_causal_lm` (``scalar=False``) or
    :func:`~rlhf_lightning.models.load_scalar_model` would load. Only the configuration is read, and the tokenizer where
    an adapter names tokens.

    Raises:
        UserError: as those functions, as far as the configuration tells.
    """
    config = read_config(name, revision, trust_remote_code, dropout, residual_dropout)
    if scalar:
        config.num_labels = 1
    auto: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    options = load_options(loaded_dtype(dtype, frozen_dtype, lora), attn_implementation, trust_remote_code)
    if lora:
        lora = with_token_ids(lora, name, revision=revision, trust_remote_code=trust_remote_code)
    with naming(name), quiet_transformers(), torch.device("meta"):
        model = auto.from_config(config, **options)
        if lora:
            add_lora(model, lora, head="score" if scalar else None)
    return measure(model, quantization=quantization or None, checkpointing=activation_checkpointing)


def measure(model: nn.Module, *, quantization: Quantization | None = None, checkpointing: bool = False) -> ModelSize:
    """The size of a transformers model, on any device.

    ``kept_bytes``, ``score_bytes`` and ``fixed_bytes`` come from three forward passes whose saved tensors are counted,
    each storage once and weights left out. An architecture that does not run without its weights is taken for a Llama,
    which keeps ``15 d + 3 f`` numbers for each token and layer, f the width of its feed-forward layer.

    Args:
        model: from transformers, or a :class:`~rlhf_lightning.models.ScalarModel` around such a model.
        quantization: how its linear layers would be stored, if they are not yet.
        checkpointing: whether activations are computed anew.
    """
    plain: Any = model.model if isinstance(model, ScalarModel) else model
    config = text_config(plain)
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    embedding = plain.get_input_embeddings().weight
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    stored = dict(zip(map(id, plain.parameters()), _stored(plain, quantization), strict=True))
    of_blocks = [sum(stored[id(parameter)] for parameter in block.parameters()) for block in blocks(plain)]
    try:
        fixed, kept, scores = _kept(plain)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
        fixed, kept, scores = 0.0, float(layers * (15 * width + 3 * inner) * embedding.itemsize), 0.0
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in plain.parameters()),
        weight_bytes=sum(stored.values()),
        trained=sum(parameter.numel() for parameter in trained),
        trained_bytes=float(sum(parameter.nbytes for parameter in trained)),
        matrices=sum(parameter.numel() for parameter, kind in trained_by_kind(plain) if kind == "matrix"),
        largest_bytes=float(max((parameter.nbytes for parameter in trained), default=0)),
        layers=layers,
        width=width,
        vocabulary=config.vocab_size,
        cache_width=2
        * (getattr(config, "num_key_value_heads", None) or heads)
        * (getattr(config, "head_dim", None) or width // heads),
        kept_bytes=kept,
        fixed_bytes=fixed,
        # Other implementations of attention compute scores anew; on the meta device they all write them out.
        score_bytes=scores if plain.config._attn_implementation == "eager" else 0.0,
        number_bytes=embedding.itemsize,
        checkpointing=checkpointing,
        block_bytes=max(of_blocks, default=0.0),
        rest_bytes=sum(stored.values()) - sum(of_blocks),
    )


def adapter_size(size: ModelSize) -> ModelSize:
    """A role whose base is in memory already: what trains of it is all that it adds, an equal part in each block."""
    return dataclasses.replace(
        size,
        parameters=size.trained,
        weight_bytes=size.trained_bytes,
        block_bytes=size.trained_bytes / size.layers,
        rest_bytes=0.0,
    )


def _stored(model: nn.Module, quantization: Quantization | None) -> Iterator[float]:
    """Bytes of each weight. Quantised are the linear layers, but not the output layer and what is to be skipped: in
    int8 one byte a number and 4 for each row; in nf4 half a byte, and for each 64 numbers a scale of 4 bytes, or,
    quantised twice, of 1 byte and 4 bytes more for each 256 scales."""
    own = {"lora_A", "lora_B", "modules_to_save"}  # of an adapter, which trains in full precision
    skipped = own if quantization is None else {*own, *quantization.unquantized, *quantization.skip_modules}
    small: dict[int, float] = {}
    for name, module in model.named_modules():
        if quantization and isinstance(module, nn.Linear | Conv1D) and skipped.isdisjoint(name.split(".")):
            weight = module.weight
            rows = weight.shape[1 if isinstance(module, Conv1D) else 0]
            scale = 1 / 64 + 4 / (64 * 256) if quantization.double else 4 / 64
            number = weight.numel()
            small[id(weight)] = number + 4 * rows if quantization.kind == "int8" else number * (0.5 + scale)
    for parameter in model.parameters():
        yield small.get(id(parameter), float(parameter.nbytes))


def _kept(model: Any) -> tuple[float, float, float]:
    """Bytes that a forward pass in training keeps whatever it reads, for each token, and for each pair of tokens: the
    parabola through what it keeps of rows of n, 2n and 4n tokens."""
    n = min(PROBE, (context_length(model) or 4 * PROBE) // 4)
    before = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        one, two, four = (_saved(model, tokens) for tokens in (n, 2 * n, 4 * n))
    finally:
        for module, training in before:
            module.training = training
    scores = (four - 3 * two + 2 * one) / (6 * n * n)
    kept = (two - one) / n - 3 * n * scores
    return one - n * kept - n * n * scores, kept, scores


def _saved(model: Any, tokens: int) -> float:
    """Bytes that a forward pass over a row of ``tokens`` tokens keeps."""
    device = model.get_input_embeddings().weight.device
    reference: Any = StorageWeakRef  # equal for views of one storage; it carries no types
    own = {reference(part.untyped_storage()) for part in (*model.parameters(), *model.buffers())}
    found: dict[Any, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        found.setdefault(reference(tensor.untyped_storage()), tensor)
        return tensor

    # A mask of one number, seen as a whole one, so that no code looks into position ids that have no values.
    mask = torch.zeros(1, 1, 1, 1, device=device).expand(1, 1, tokens, tokens)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    size = sum(tensor.untyped_storage().nbytes() for storage, tensor in found.items() if storage not in own)
    del output
    return float(size)
