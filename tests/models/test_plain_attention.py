"""Attention by plain products against torch's fused attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rlhf_lightning.models.plain_attention import plain_attention, suits_plain

WIDTH, BEFORE = 7, 4


def states(heads: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, heads, width, 8, dtype=dtype, requires_grad=True)


def check(given: list[Tensor], sees: Tensor | None, tolerance: float, **options: Any) -> None:
    """Outputs and gradients against torch's in float64."""
    found, _ = plain_attention(nn.Identity(), *given, sees, **options)
    exact = [one.detach().double().requires_grad_() for one in given]
    query, key, value = exact
    expected = scaled_dot_product_attention(
        query, key, value, sees, is_causal=sees is None, scale=options.get("scaling"), enable_gqa=True
    ).transpose(1, 2)
    assert found.dtype == given[0].dtype
    assert found.shape == expected.shape
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((found * weights.to(found.dtype)).sum(), given)
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    for mine, theirs in zip((found, *gradients), (expected, *wanted), strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("keys", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_it_is_torchs(dtype: torch.dtype, tolerance: float, keys: int, scaling: float | None) -> None:
    given = [states(4, WIDTH, dtype), states(keys, WIDTH, dtype), states(keys, WIDTH, dtype)]
    check(given, None, tolerance, scaling=scaling)
    sees = torch.rand(3, 1, WIDTH, BEFORE + WIDTH) < 0.5
    sees[..., BEFORE:] |= torch.eye(WIDTH, dtype=torch.bool)
    longer = [given[0], states(keys, BEFORE + WIDTH, dtype), states(keys, BEFORE + WIDTH, dtype)]
    check(longer, sees, tolerance, scaling=scaling)


def test_values_may_be_of_another_size() -> None:
    """As in multi-head latent attention."""
    value = torch.randn(3, 2, WIDTH, 5, requires_grad=True)
    check([states(2, WIDTH), states(2, WIDTH), value], None, 1e-5)


def test_autocast_decides_on_the_type() -> None:
    """Rotary positions leave queries and keys in float32."""
    query, key, value = states(2, WIDTH), states(2, WIDTH), states(2, WIDTH).bfloat16()
    plain, _ = plain_attention(nn.Identity(), query.bfloat16(), key.bfloat16(), value, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = plain_attention(nn.Identity(), query, key, value, None)
    assert torch.equal(found, plain)


def test_weights_are_dropped() -> None:
    given = [torch.randn(2, 2, 64, 8), torch.randn(2, 2, 64, 8), torch.ones(2, 2, 64, 8)]
    found, _ = plain_attention(nn.Identity(), *given, None, dropout=0.25)
    sums = found[:, 32:]  # of the weights that are left, as the values are ones
    assert sums.mean().item() == pytest.approx(1, abs=0.05)
    assert sums.std() > 0.02
    found, _ = plain_attention(nn.Identity(), *given, None, dropout=0.0)
    torch.testing.assert_close(found, torch.ones_like(found))


def test_where_it_is_faster() -> None:
    query, options = torch.zeros(1, 1, 200, 8), {"position_bias": None}
    assert not suits_plain(query, query, options)
    assert suits_plain(query, query[:, :, :100], options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert suits_plain(query, query, options)
        assert not suits_plain(query, torch.zeros(1, 1, 2000, 8), options)
        assert not suits_plain(query, query, {"position_bias": query})
    assert not suits_plain(query.double(), query.double(), options)
