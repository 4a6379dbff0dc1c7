"""Floating-point types: their names, and which one is computed in."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lightning.errors import UserError

_SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def torch_dtype(name: str, key: str = "model.dtype") -> torch.dtype:
    """The floating-point type of torch, or its short name.

    Raises:
        UserError: no such type; names ``key``.
    """
    found = _SHORT.get(name, getattr(torch, str(name), None))
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"{key}={name!r} is no torch dtype; use float32, bfloat16 or float16")
    return found


def computed_in(tensor: Tensor) -> torch.dtype:
    """The type in which products of a tensor are computed, which autocast may decide."""
    device = tensor.device.type
    lowered = torch.is_autocast_enabled(device) and tensor.dtype != torch.float64
    return torch.get_autocast_dtype(device) if lowered else tensor.dtype
