"""Lightning's trainer with one setting that torch keeps for the whole process."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from rlhf_lightning.errors import UserError

PRECISIONS = ("highest", "high", "medium")


def make_trainer(*, matmul_precision: str | None = None, **options: Any) -> L.Trainer:
    """``lightning.Trainer(**options)``.

    Args:
        matmul_precision: of products of float32 matrices, as in ``torch.set_float32_matmul_precision``: ``highest``;
            ``high``, TF32 on a GPU; ``medium``, bfloat16 where the device has it. ``None`` leaves it as it is.

    Raises:
        UserError: no such precision.
    """
    if matmul_precision is not None:
        if matmul_precision not in PRECISIONS:
            raise UserError(f"trainer.matmul_precision={matmul_precision!r} is none of {', '.join(PRECISIONS)}")
        torch.set_float32_matmul_precision(matmul_precision)
    return L.Trainer(**options)
