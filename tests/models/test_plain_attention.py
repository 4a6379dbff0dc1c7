"""Attention by plain products against torch's fused attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlhf_lightning.models.plain_attention import plain_attention, suits_plain

WIDTH, BEFORE = 7, 4
pytestmark = pytest.mark.usefixtures("in_bfloat16")


def states(heads: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, heads, width, 8, dtype=dtype, requires_grad=True)


def check(given: list[Tensor], sees: Tensor | None, tolerance: float, **options: Any) -> None:
    """Outputs and gradients against torch's in float64."""
    found = plain_attention(*given, sees, **options)
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
    plain = plain_attention(query.bfloat16(), key.bfloat16(), value, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = plain_attention(query, key, value, None)
    assert torch.equal(found, plain)


def test_weights_are_dropped() -> None:
    given = [torch.randn(2, 2, 64, 8), torch.randn(2, 2, 64, 8), torch.ones(2, 2, 64, 8)]
    found = plain_attention(*given, None, dropout=0.25)
    sums = found[:, 32:]  # of the weights that are left, as the values are ones
    assert sums.mean().item() == pytest.approx(1, abs=0.05)
    assert sums.std() > 0.02
    found = plain_attention(*given, None, dropout=0.0)
    torch.testing.assert_close(found, torch.ones_like(found))


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_one_query_sees_all(keys: int) -> None:
    """As in decoding."""
    key, value = states(keys, WIDTH), states(keys, WIDTH)
    query = states(4, 1)
    found = plain_attention(query, key, value, None)
    expected = scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2)
    assert (found - expected).abs().max() < 1e-6


def test_rows_may_share_what_they_see() -> None:
    sees = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril().view(1, 1, WIDTH, WIDTH)
    given = [states(4, WIDTH), states(2, WIDTH), states(2, WIDTH)]
    assert torch.equal(plain_attention(*given, sees), plain_attention(*given, None))


@pytest.mark.parametrize(
    ("dtype", "width", "taken"),
    [
        (torch.float32, 128, True),
        (torch.float32, 129, False),
        (torch.bfloat16, 512, True),
        (torch.bfloat16, 513, False),
        (torch.float64, 8, False),
        (torch.float16, 8, False),
    ],
)
def test_where_it_is_faster(dtype: torch.dtype, width: int, taken: bool) -> None:
    query = torch.zeros(1, 1, width, 8, dtype=dtype)
    assert suits_plain(query, query) == taken
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert suits_plain(query, query) == (width <= 512 and dtype != torch.float64)


def test_processors_without_bfloat16_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_lightning.models.plain_attention.multiplies_bf16", lambda: False)
    query = torch.zeros(1, 1, 100, 8)
    assert suits_plain(query, query)
    assert not suits_plain(query.bfloat16(), query.bfloat16())
    with torch.no_grad():
        assert not suits_plain(query.bfloat16()[:, :, :1], query.bfloat16())


@pytest.mark.parametrize(("rows", "width"), [(0, 5), (2, 0)])
def test_of_nothing_there_is_nothing(rows: int, width: int) -> None:
    query, key, value = (torch.zeros(rows, *shape) for shape in ((4, width, 8), (2, 5, 8), (2, 5, 3)))
    found = plain_attention(query, key, value, None)
    assert found.shape == (rows, width, 4, 3)


def test_no_more_weights_than_memory_is_for() -> None:
    query = torch.zeros(2, 64, 512, 1, dtype=torch.bfloat16)
    assert suits_plain(query, query)
    query = torch.zeros(2, 65, 512, 1, dtype=torch.bfloat16)
    assert not suits_plain(query, query)


def test_single_tokens_see_any_number_without_gradients() -> None:
    query, key = torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16), torch.zeros(1, 1, 5000, 8, dtype=torch.bfloat16)
    assert not suits_plain(query, key)
    with torch.no_grad():
        assert suits_plain(query, key)
        assert not suits_plain(query.float(), key.float()[:, :, :100])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_it_is_compiled_in_one_piece_with_any_dropout(dropout: float) -> None:
    """An option that torch takes for a number that may change, like the sizes."""
    states = torch.randn(2, 2, 5, 8)
    compiled = torch.compile(plain_attention, backend="eager", dynamic=True, fullgraph=True)
    try:
        torch.manual_seed(1)
        found = compiled(states, states, states, None, dropout=dropout)
    finally:
        torch.compiler.reset()
    torch.manual_seed(1)
    torch.testing.assert_close(found, plain_attention(states, states, states, None, dropout=dropout))
