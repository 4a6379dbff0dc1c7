"""Lightning's trainer with two settings of products of matrices, which hold for the whole process."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import choose_cpu_matmul

PRECISIONS = ("highest", "high", "medium")


def make_trainer(*, matmul_precision: str | None = None, cpu_matmul: str = "auto", **options: Any) -> L.Trainer:
    """``lightning.Trainer(**options)``.

    Args:
        matmul_precision: of products of float32 matrices, as in ``torch.set_float32_matmul_precision``: ``highest``;
            ``high``, TF32 on a GPU; ``medium``, bfloat16 where the device has it. ``None`` leaves it as it is.
        cpu_matmul: which library multiplies them on a CPU (:func:`~rlhf_lightning.models.choose_cpu_matmul`).

    Raises:
        UserError: no such precision or library.
    """
    if matmul_precision is not None:
        if matmul_precision not in PRECISIONS:
            raise UserError(f"trainer.matmul_precision={matmul_precision!r} is none of {', '.join(PRECISIONS)}")
        torch.set_float32_matmul_precision(matmul_precision)
    # Where almost all products are of 16 bits, looking at each of them is lost time.
    half = cpu_matmul == "auto" and "16" in str(options.get("precision"))
    choose_cpu_matmul("torch" if half else cpu_matmul)
    return L.Trainer(**options)
