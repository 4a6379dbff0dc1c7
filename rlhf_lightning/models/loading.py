"""Loading transformers models, with errors that say what to do."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.architecture import check_causal_lm
from rlhf_lightning.models.dropout import set_dropout
from rlhf_lightning.models.dtypes import torch_dtype
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.load_errors import naming
from rlhf_lightning.models.lora import Lora, add_lora
from rlhf_lightning.models.quantization import Quantization, give_back_unpacked, leave_file, same_products_everywhere
from rlhf_lightning.models.quiet import quiet_transformers
from rlhf_lightning.models.skeletons import skeleton_wanted
from rlhf_lightning.models.token_rows import with_token_ids

Init = Literal["pretrained", "random"]
Head = Literal["pretrained", "new"]


def load_causal_lm(
    *,
    name: str,
    init: Init = "pretrained",
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
) -> PreTrainedModel:
    """A causal language model.

    Args:
        name: a local folder or a hub id.
        init: ``pretrained`` loads weights; ``random`` reads the configuration alone and draws the weights anew.
        dtype: of the weights, a torch name such as ``float32`` or ``bfloat16``, or ``bf16`` for short.
        frozen_dtype: of the weights beneath an adapter, in place of ``dtype``; without an adapter none is frozen.
        dropout: sets every dropout probability of the configuration; ``None`` leaves them as they are.
        residual_dropout: sets that of the residual branches alone, behind ``dropout`` (the paper's SFT: 0.2); ``None``
            leaves it.
        revision, attn_implementation, trust_remote_code: as in transformers.
        lora: freeze the weights and train an adapter beside them.
        quantization: store the weights in fewer bits; what trains must then be an adapter.
        activation_checkpointing: keep one state a layer in training and compute the rest anew, for less memory.

    Raises:
        UserError: nothing there, no weights, weights that do not fit the architecture, an unknown dtype, an
            architecture that is no left-to-right decoder (:func:`~rlhf_lightning.models.check_causal_lm`) or lacks
            the dropout.
    """
    config = read_config(name, revision, trust_remote_code, dropout, residual_dropout)
    options = load_options(loaded_dtype(dtype, frozen_dtype, lora), attn_implementation, trust_remote_code)
    model, info = _load(AutoModelForCausalLM, name, init, config, revision, options, quantization)
    if any(key.startswith("score.") for key in info["unexpected_keys"]):
        raise UserError(f"model.name={name} is a reward model, not a language model; give the folder of a policy")
    _refuse_missing(name, info["missing_keys"])
    _train_padding(model)
    # Flash attention runs on a GPU alone, where the model is not yet; a skeleton has nothing to run.
    if "flash" not in (attn_implementation or "") and not skeleton_wanted():
        check_causal_lm(model, name=name)
    if lora:
        add_lora(model, with_token_ids(lora, name, revision=revision, trust_remote_code=trust_remote_code))
    if activation_checkpointing:
        _checkpoint(model)
    return model


def load_scalar_model(
    *,
    name: str,
    head: Head = "pretrained",
    init: Init = "pretrained",
    dtype: str = "float32",
    frozen_dtype: str | None = None,
    dropout: float | None = 0.0,
    residual_dropout: float | None = None,
    seed: int = 0,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    lora: Lora | None = None,
    quantization: Quantization | None = None,
    activation_checkpointing: bool = False,
) -> ScalarModel:
    """A reward or value model: a backbone with one scalar per token.

    Args:
        name: a local folder or a hub id.
        head: ``pretrained`` requires a saved head that was trained (a value model starts from a reward model);
            ``new`` draws one from ``seed`` (a reward model starts from a language model).
        init: ``random`` reads the configuration alone and draws the backbone anew; its head is then new too.
        dtype, frozen_dtype, dropout, residual_dropout, revision, attn_implementation, trust_remote_code, lora,
            quantization, activation_checkpointing: as in :func:`load_causal_lm`; beside an adapter the head trains in
            full.

    Raises:
        UserError: as :func:`load_causal_lm`; also a head that is asked for and missing or untrained, and an
            architecture that transformers cannot give one scalar per token.
    """
    if init == "random" and head == "pretrained":
        raise UserError(
            f"{name}: init=random draws every weight anew, which a head=pretrained is not; ask for head=new"
        )
    config = read_config(name, revision, trust_remote_code, dropout, residual_dropout)
    config.num_labels = 1
    options = load_options(loaded_dtype(dtype, frozen_dtype, lora), attn_implementation, trust_remote_code)
    model, info = _load(AutoModelForSequenceClassification, name, init, config, revision, options, quantization)
    missing = list(info["missing_keys"])
    _train_padding(model)
    scalar = ScalarModel(model)
    try:
        weight = scalar.head.weight
    except UserError as error:
        raise UserError(f"model.name={name}: {error}") from error
    if head == "new":
        missing = [key for key in missing if not key.startswith("score.")]
        if not skeleton_wanted():
            scalar.reset_head(torch.Generator(weight.device).manual_seed(seed))
    elif head != "pretrained":
        raise UserError(f"head={head!r} is neither 'pretrained' nor 'new'")
    elif any(key.startswith("score.") for key in missing):
        raise UserError(
            f"{name} holds no score head, so it is no reward model: give the folder of one (rlhf-train stage=reward), "
            "or for a value model alone ask for head=new"
        )
    _refuse_missing(name, missing)
    if head == "pretrained":
        scalar.check_head(name)
    if lora:
        known = with_token_ids(lora, name, revision=revision, trust_remote_code=trust_remote_code)
        add_lora(model, known, head="score")
    if activation_checkpointing:
        _checkpoint(model)
    return scalar


def _load(
    auto: Any,
    name: str,
    init: Init,
    config: PretrainedConfig,
    revision: str | None,
    options: dict[str, Any],
    quantization: Quantization | None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and which of its weights were missing or left over."""
    if init not in ("pretrained", "random"):
        raise UserError(f"model.init={init!r} is neither 'pretrained' nor 'random'")
    if init == "random" and quantization:
        raise UserError("model.init=random draws weights anew, which model/quantization cannot store in fewer bits")
    load = functools.partial(auto.from_pretrained, name, config=config, revision=revision, **options)
    with naming(name), quiet_transformers():
        if skeleton_wanted() and not quantization:
            with torch.device("meta"):
                return auto.from_config(config, **options), {"missing_keys": [], "unexpected_keys": []}
        if init == "random":
            config.name_or_path = ""  # these weights come from nowhere, which a model card tells
            return auto.from_config(config, **options), {"missing_keys": [], "unexpected_keys": []}
        if not quantization:
            model, info = load(output_loading_info=True)
            return model, info
        plain = copy.deepcopy(config)  # what a quantised model writes into its own says how it is stored
        stored = {"quantization_config": quantization.config(options["dtype"])}
        model, info = load(output_loading_info=True, **stored)
        leave_file(model)
        give_back_unpacked(model)
        same_products_everywhere(model)
        model.load_unquantized = functools.partial(load, config=plain)
    return model, info


def _checkpoint(model: PreTrainedModel) -> None:
    # Not the reentrant kind, which needs an input with a gradient; a frozen embedding gives none.
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _train_padding(model: PreTrainedModel) -> None:
    """Let the padding token's embedding learn like any other: where it is also EOS it is read and scored, and where it
    is nothing but padding it gets no gradient anyway, because nothing attends to it."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        embedding.padding_idx = None


def read_config(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    dropout: float | None,
    residual_dropout: float | None = None,
) -> PretrainedConfig:
    path = Path(name)
    if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise UserError(f"model.name={name}: no such folder; give a local model folder or a hub id")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"model.name={name}: the folder holds no config.json; give the folder of a transformers model")
    with naming(name):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code
        )
    set_dropout(config, name, dropout, residual_dropout)
    return config


def loaded_dtype(dtype: str, frozen_dtype: str | None, lora: Lora | None) -> torch.dtype:
    """The dtype to load weights in, of which those beneath an adapter are frozen."""
    if lora and frozen_dtype is not None:
        return torch_dtype(frozen_dtype, "model.frozen_dtype")
    return torch_dtype(dtype)


def load_options(dtype: torch.dtype, attn_implementation: str | None, trust_remote_code: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    return options


def _refuse_missing(name: str, missing: list[str] | set[str]) -> None:
    if missing:
        shown = ", ".join(sorted(missing)[:3])
        raise UserError(
            f"model.name={name}: {len(missing)} weights are missing ({shown}, ...); the folder is incomplete "
            "or of another architecture"
        )
