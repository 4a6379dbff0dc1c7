"""Optimizers with moments in 8 bits, through bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from rlhf_lightning.errors import UserError


def adamw8bit(
    groups: list[dict[str, Any]],
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-5,
    paged: bool = False,
) -> Optimizer:
    """AdamW with both moments of large weights in 8 bits, by blocks (Dettmers et al. 2021, section 2).

    Args:
        groups: parameter groups, as the modules make them.
        betas, eps: as in AdamW.
        paged: let the moments move to the CPU's memory where the GPU's is full; no effect on a CPU.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise UserError(
            "optimizer=adamw8bit needs the package bitsandbytes: pip install 'rlhf-lightning[quantization]'"
        ) from error
    library: Any = optim  # which does not say what it exports
    kind = library.PagedAdamW8bit if paged and torch.cuda.is_available() else library.AdamW8bit
    made: Optimizer = kind(groups, betas=betas, eps=eps)
    return made
