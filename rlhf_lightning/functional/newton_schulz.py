"""Orthogonalising matrices without a singular value decomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lightning.functional.processor import multiplies_bf16

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""a, b, c of Jordan et al. (2024): the steepest rise of small singular values; large ones end near 1, not at 1."""


def newton_schulz(matrices: Tensor, *, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Nearly ``U Vᵀ`` of every matrix ``U Σ Vᵀ`` of a stack: singular values become roughly 1, vectors stay.

    ``X ← X / ‖X‖``, then ``steps`` times ``X ← a X + (b A + c A²) X`` with ``A = X Xᵀ``, in bfloat16 (Jordan et al.
    2024, "Muon: An optimizer for hidden layers in neural networks"). Small matrices of one shape are cheaper together
    than one by one. A processor without products in bfloat16, where these take twenty times as long, is given float32.

    Shapes:
        matrices: [n, r, c]. Result: [n, r, c], in the type that was computed in.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    emulated = matrices.device.type == "cpu" and not multiplies_bf16()
    x = (matrices.mT if tall else matrices).to(torch.float32 if emulated else torch.bfloat16)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
