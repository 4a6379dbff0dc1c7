"""Short hashes by which a checkpoint or an adapter knows the model that it belongs to."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lightning.models.adapters import base_weights
from rlhf_lightning.models.lora import has_adapters
from rlhf_lightning.models.skeletons import from_first

_KEPT = "kept_base_fingerprint"


def weights_fingerprint(model: nn.Module) -> str:
    """A short hash of names, shapes and the first values of every weight: cheap at any size, equal on every device,
    and different for different models."""
    return _fingerprint(model.state_dict())


def content_fingerprint(model: nn.Module) -> str:
    """A short hash of every number of every weight, and of the configuration where a model has one: two models with the
    same one compute the same. It reads all weights, as :func:`weights_fingerprint` does not."""
    digest = hashlib.sha256()
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_json_string"):
        digest.update(config.to_json_string(use_diff=False).encode())
        digest.update(str(config._attn_implementation).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def base_fingerprint(model: nn.Module) -> str:
    """The same of the frozen weights beneath adapters, a scalar head left out: that of the base that was loaded. Of a
    sharded model it is the one that :func:`keep_base_fingerprints` found."""
    kept = getattr(model, _KEPT, None)
    if kept is not None:
        return str(kept)
    heads = ("score.", "lm_head.", "embed_out.")  # a causal and a scalar model of one base differ in them
    return _fingerprint({name: w for name, w in base_weights(model.state_dict()).items() if not name.startswith(heads)})


def keep_base_fingerprints(model: nn.Module) -> None:
    """Have every part of ``model`` that carries adapters remember the fingerprint of its base, which after sharding no
    process could take: that of the first process, which may be the only one with weights. A collective."""
    for part in model.modules():
        if has_adapters(part) and getattr(part, _KEPT, None) is None:
            setattr(part, _KEPT, from_first(True, functools.partial(base_fingerprint, part)))


def _fingerprint(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
