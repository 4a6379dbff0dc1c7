"""Model folders that plain transformers loads, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.models.heads import ScalarModel


def save_model_folder(model: nn.Module, encoder: Encoder, folder: str | Path) -> Path:
    """Write weights, configuration, tokenizer and chat template to ``folder``.

    The folder is written beside its place and moved there at the end, so that an interrupted run leaves the old one
    (or none), never half a new one.

    Args:
        model: a transformers model, or a :class:`~rlhf_lightning.models.heads.ScalarModel` around one.
        encoder: whose tokenizer belongs to the model.
        folder: where to.
    """
    plain: nn.Module = model.model if isinstance(model, ScalarModel) else model
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    plain.config.pad_token_id = encoder.pad_token_id  # type: ignore[union-attr]
    plain.save_pretrained(partial)  # type: ignore[operator]
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


def weights_fingerprint(model: nn.Module) -> str:
    """A short hash of names, shapes and the first values of every weight: cheap at any size, equal on every device,
    and different for different models."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
