from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lightning.functional import explained_variance, masked_mean, masked_moments, masked_sum, masked_whiten

NAN = float("nan")
VALUES = torch.tensor([[1.0, 3.0, NAN], [5.0, NAN, NAN]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_sum_and_mean_of_the_valid_entries() -> None:
    assert masked_sum(VALUES, MASK).item() == 9.0  # 1 + 3 + 5
    assert masked_mean(VALUES, MASK).item() == 3.0  # 9 / 3
    assert masked_sum(VALUES, MASK, 1).tolist() == [4.0, 5.0]
    assert masked_mean(VALUES, MASK, 1).tolist() == [2.0, 5.0]
    assert masked_mean(VALUES, MASK, count=torch.tensor(18)).item() == 0.5  # 9 / 18


def test_mean_of_nothing_is_zero() -> None:
    assert masked_mean(VALUES, torch.zeros_like(MASK)).item() == 0.0


def test_moments_are_the_biased_ones() -> None:
    mean, variance = masked_moments(VALUES, MASK)
    assert mean.item() == 3.0
    assert variance.item() == pytest.approx(8 / 3)  # ((−2)² + 0² + 2²) / 3


def test_whitening_removes_the_mean() -> None:
    # (x − 3) / √(8/3): −2, 0 and 2 over 1.6329932
    expected = torch.tensor([[-1.2247449, 0.0, 0.0], [1.2247449, 0.0, 0.0]])
    torch.testing.assert_close(masked_whiten(VALUES, MASK), expected)


def test_whitening_without_shift_keeps_the_mean() -> None:
    # the same plus 3; the sign that torchtune had wrong
    expected = torch.tensor([[1.7752551, 3.0, 0.0], [4.2247449, 0.0, 0.0]])
    torch.testing.assert_close(masked_whiten(VALUES, MASK, shift_mean=False), expected)


def test_whitening_with_moments_of_all_ranks() -> None:
    moments = torch.tensor(1.0), torch.tensor(4.0)
    expected = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]])  # (x − 1) / 2
    torch.testing.assert_close(masked_whiten(VALUES, MASK, moments=moments), expected)


def test_whitening_equal_values_gives_zeros_and_no_nan() -> None:
    whitened = masked_whiten(torch.full((2, 3), 7.0), MASK)
    assert whitened.abs().max().item() == 0.0


def test_explained_variance() -> None:
    targets = torch.tensor([1.0, 2.0, 3.0, NAN])
    mask = torch.tensor([True, True, True, False])
    # Var(y) = 2/3; residuals 0.5, −0.5, 0 have variance (0.25 + 0.25)/3 = 1/6; 1 − (1/6)/(2/3) = 0.75
    predictions = torch.tensor([0.5, 2.5, 3.0, NAN])
    assert explained_variance(predictions, targets, mask).item() == pytest.approx(0.75)
    assert explained_variance(targets, targets, mask).item() == 1.0
    assert explained_variance(torch.ones(4), targets, mask).item() == pytest.approx(0.0)
    assert explained_variance(-targets, targets, mask).item() == pytest.approx(-3.0)  # Var(2y) = 4 Var(y)
    assert math.isnan(explained_variance(targets, torch.ones(4), mask).item())


@pytest.mark.parametrize(
    "function",
    [
        masked_sum,
        masked_mean,
        lambda values, mask: masked_moments(values, mask)[1],
        lambda values, mask: masked_whiten(values, mask)[0, 0],
        lambda values, mask: masked_whiten(values, mask, shift_mean=False)[0, 0],
        lambda values, mask: explained_variance(values, torch.arange(6.0).view(2, 3), mask),
        lambda values, mask: explained_variance(torch.arange(6.0).view(2, 3), values, mask),
    ],
)
@pytest.mark.parametrize("planted", [NAN, float("inf"), 1e30])
def test_masked_slots_change_neither_value_nor_gradient(function, planted: float) -> None:
    results = []
    for filler in (0.0, planted):
        values = torch.where(MASK, VALUES, filler).requires_grad_()
        result = function(values, MASK)
        result.backward()
        results.append((result.detach(), values.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    assert results[1][1][~MASK].abs().max() == 0.0


@given(
    rows=st.lists(
        st.lists(st.tuples(st.floats(-100, 100, width=32), st.booleans()), min_size=4, max_size=4),
        min_size=1,
        max_size=8,
    ),
    size=st.integers(1, 8),
)
def test_micro_batches_with_the_global_count_add_up(rows: list[list[tuple[float, bool]]], size: int) -> None:
    values = torch.tensor([[value for value, _ in row] for row in rows], dtype=torch.float64)
    mask = torch.tensor([[valid for _, valid in row] for row in rows])
    count = mask.sum()
    valid = [value for row in rows for value, keep in row if keep]
    parts = zip(values.split(size), mask.split(size), strict=True)
    total = sum(masked_mean(part, part_mask, count=count).item() for part, part_mask in parts)
    assert total == pytest.approx(sum(valid) / max(len(valid), 1), abs=1e-9)


def test_a_mask_of_another_shape_or_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 1\)"):
        masked_sum(VALUES, MASK[:, :1])
    with pytest.raises(ValueError, match=r"torch\.float32"):
        masked_mean(VALUES, MASK.float())
