"""Model folders that plain transformers loads, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import GENERATION_CONFIG_NAME

from rlhf_lightning.data import Encoder
from rlhf_lightning.models.adapters import base_weights, merged, save_adapter
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.lora import has_adapters
from rlhf_lightning.models.quiet import quiet_transformers

BASE = "base.json"


def save_model_folder(
    model: nn.Module,
    encoder: Encoder,
    folder: str | Path,
    *,
    merge: bool = True,
    max_shard_size: str = "5GB",
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write weights, configuration, tokenizer and chat template to ``folder``.

    A model with an adapter is written merged, so that plain transformers loads it, with the adapter alone in
    ``adapter/``, for peft and for PPO with shared roles; ``adapter/base.json`` tells which base it belongs to.

    The folder is written beside its place and moved there at the end, so that an interrupted run leaves the old one
    (or none), never half a new one.

    Args:
        model: a transformers model, or a :class:`~rlhf_lightning.models.heads.ScalarModel` around one.
        encoder: whose tokenizer belongs to the model.
        folder: where to.
        merge: ``False`` leaves the merged weights out and writes the adapter into ``folder`` itself.
        max_shard_size: weights beyond it are written as several files.
        weights: the model's state in full, where its own is sharded.
    """
    plain: nn.Module = model.model if isinstance(model, ScalarModel) else model
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    _name_special_tokens(plain, encoder)
    if has_adapters(plain):
        own = partial / "adapter" if merge else partial
        save_adapter(plain, own, head="score" if isinstance(model, ScalarModel) else None)
        (own / BASE).write_text(json.dumps({"fingerprint": base_fingerprint(plain)}), encoding="utf-8")
        if merge:
            plain = merged(plain, own)
            _name_special_tokens(plain, encoder)
    if merge:
        options: dict[str, Any] = {"max_shard_size": max_shard_size}
        if weights is not None:
            prefix = "model." if isinstance(model, ScalarModel) else ""
            options["state_dict"] = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        _save_weights(plain, partial, options)
    encoder.save(partial)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    else:
        os.replace(partial, folder)
    return folder


def _save_weights(model: Any, folder: Path, options: dict[str, Any]) -> None:
    """Weights, configuration, and the sampling settings as they are: transformers reads settings that it then refuses
    to write, such as a temperature without ``do_sample``."""
    settings = getattr(model, "generation_config", None)
    with quiet_transformers():
        if settings is None:
            model.save_pretrained(folder, **options)
            return
        model.generation_config = type(settings)()
        try:
            model.save_pretrained(folder, **options)
        finally:
            model.generation_config = settings
        settings.to_json_file(folder / GENERATION_CONFIG_NAME)


def _name_special_tokens(model: nn.Module, encoder: Encoder) -> None:
    """Tell plain transformers where a response ends and what padding is.

    Padding that is EOS stays unnamed in the configuration: a sequence classifier would take a final EOS for padding
    and score the token before it, and an embedding never trains the token that is named padding.
    """
    config: Any = model.config
    config.pad_token_id = None if encoder.pad_token_id == encoder.eos_token_id else encoder.pad_token_id
    for settings in (config, getattr(model, "generation_config", None)):
        if settings is not None and encoder.eos_token_id not in _as_list(settings.eos_token_id):
            settings.eos_token_id = encoder.eos_token_id


def _as_list(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def weights_fingerprint(model: nn.Module) -> str:
    """A short hash of names, shapes and the first values of every weight: cheap at any size, equal on every device,
    and different for different models."""
    return _fingerprint(model.state_dict())


def base_fingerprint(model: nn.Module) -> str:
    """The same of the frozen weights beneath adapters, a scalar head left out: that of the base that was loaded."""
    heads = ("score.", "lm_head.", "embed_out.")  # a causal and a scalar model of one base differ in them
    return _fingerprint({name: w for name, w in base_weights(model).items() if not name.startswith(heads)})


def _fingerprint(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
