"""Sums, means and whitening over the valid entries of a tensor.

A mask is ``True`` where an entry counts. Invalid entries are replaced, never multiplied by zero, so that a NaN
in a padded slot reaches neither a value nor a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def valid_or_zero(values: Tensor, mask: Tensor) -> Tensor:
    """The valid entries, 0 elsewhere. It stands before any arithmetic whose derivative would carry a NaN further."""
    if values.shape != mask.shape:
        raise ValueError(f"values of shape {tuple(values.shape)} need a mask of that shape, got {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise ValueError(f"a mask is boolean, got {mask.dtype}")
    return torch.where(mask, values, values.new_zeros(()))


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the valid entries: ``Σ_i m_i x_i``, over all of them or along ``dim``.

    Shapes:
        values, mask: the same, any; the result drops ``dim`` (or is a scalar).
    """
    kept = valid_or_zero(values, mask)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None, *, count: Tensor | None = None) -> Tensor:
    """Mean of the valid entries: ``Σ_i m_i x_i / max(Σ_i m_i, 1)``; without a valid entry it is 0.

    Args:
        values, mask: the same shape.
        dim: the dimension to average over; all of them by default.
        count: the denominator to use instead of the number of valid entries here: the number of valid tokens of
            the whole minibatch over all micro-batches and ranks, so that gradients add up to the global mean.
    """
    total = masked_sum(values, mask, dim)
    if count is None:
        count = mask.sum() if dim is None else mask.sum(dim)
    return total / count.clamp(min=1)


def masked_whiten(
    values: Tensor, mask: Tensor, *, shift_mean: bool = True, moments: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Whitened values, ``(x − μ)·rsqrt(σ² + 1e-8)``, with the mean and variance of the valid entries.

    With ``shift_mean=False`` the mean is added back, so that only the scale changes. Invalid entries become 0.

    Args:
        values, mask: the same shape.
        shift_mean: whether the result has mean 0.
        moments: (μ, σ²) over all ranks; by default those of ``values``. The variance is the biased one (1/n).
    """
    mean, variance = masked_moments(values, mask) if moments is None else moments
    values = valid_or_zero(values, mask)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return valid_or_zero(whitened, mask)


def masked_moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the valid entries, both scalars."""
    values = valid_or_zero(values, mask)
    mean = masked_mean(values, mask)
    return mean, masked_mean((values - mean).square(), mask)


def explained_variance(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Share of the targets' variance that the predictions explain: ``1 − Var(y − ŷ)/Var(y)``.

    1 is perfect, 0 no better than a constant, negative worse; NaN where the targets do not vary.
    """
    _, target_variance = masked_moments(targets, mask)
    _, residual_variance = masked_moments(targets - predictions, mask)
    return torch.where(
        target_variance > 0, 1 - residual_variance / target_variance, target_variance.new_full((), float("nan"))
    )
