"""A reward bias for score heads that have none."""

from __future__ import annotations

import torch
from torch import Tensor


def centering_direction(features: Tensor, *, ridge: float = 1e-4) -> Tensor:
    """The direction u on which the features are as constant as they can be, at 1:
    ``u = (Σ + λI)⁻¹μ / μᵀ(Σ + λI)⁻¹μ`` minimises ``Var(uᵀh) + λ|u|²`` subject to ``mean(uᵀh) = 1``.

    InstructGPT shifts the reward by a bias so that demonstrations score 0 on average (section 3.5). The sequence
    classification heads of transformers' decoders are linear without a bias, so a bias b is written into the
    weight instead, ``w ← w + b·u``: every score moves by about b, and the mean over ``features`` by exactly b.
    Where the final norm has a bias of its own (LayerNorm), a constant lies in the span of the features, and the
    shift is exact for every input.

    Args:
        features: [n, d], what the head reads (the last hidden state at the scored token).
        ridge: λ relative to the mean variance of a feature.

    Returns:
        u: [d], in float64.
    """
    if features.dim() != 2 or features.shape[0] == 0:
        raise ValueError(f"features must be [n, d] with n > 0, got {tuple(features.shape)}")
    features = features.double()
    mean = features.mean(0)
    if not mean.any():
        raise ValueError("the mean of the features is 0, so no direction can carry a bias")
    centred = features - mean
    covariance = centred.T @ centred / features.shape[0]
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    regular = covariance + ridge * scale * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    solved = torch.linalg.solve(regular, mean)
    direction: Tensor = solved / (mean @ solved)
    return direction
