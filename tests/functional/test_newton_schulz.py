from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf_lightning.functional import newton_schulz, processor


def test_one_step_by_hand() -> None:
    """diag(3, 4) has norm 5: X = diag(0.6, 0.8), and a x + b x^3 + c x^5 is
    3.4445 * 0.6 - 4.775 * 0.216 + 2.0315 * 0.07776 = 1.1933 and
    3.4445 * 0.8 - 4.775 * 0.512 + 2.0315 * 0.32768 = 0.9765.
    """
    (found,) = newton_schulz(torch.diag(torch.tensor([3.0, 4.0]))[None], steps=1)
    assert found.diag().tolist() == pytest.approx([1.1933, 0.9765], rel=0.01)  # bfloat16 has three digits
    assert found[0, 1] == found[1, 0] == 0


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 4, 6), (1, 5, 5)])
def test_singular_values_near_one_and_the_same_vectors(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = newton_schulz(matrices).float()
    for matrix, orthogonal in zip(matrices, found, strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        sizes = u.T @ orthogonal @ v.T
        assert (sizes - torch.diag(sizes.diag())).abs().max() < 0.05
        assert ((sizes.diag() > 0.6) & (sizes.diag() < 1.25)).all()


def test_each_matrix_has_its_own_norm_and_zeros_stay() -> None:
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    found = newton_schulz(torch.stack([matrix, 1e4 * matrix, torch.zeros(4, 4)]))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)  # bfloat16 has three digits
    assert not found[2].any()


@pytest.mark.parametrize(
    ("known", "dtype"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True}, torch.bfloat16),
        ({"architecture": "x86_64", "amx_bf16": True}, torch.bfloat16),
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False}, torch.float32),
        ({"architecture": "aarch64"}, torch.bfloat16),
        ({}, torch.bfloat16),
    ],
)
def test_a_processor_without_products_in_bfloat16_is_spared_them(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    monkeypatch.setattr(processor, "_answers", {})
    found = newton_schulz(torch.diag(torch.tensor([3.0, 4.0]))[None], steps=1)
    assert found.dtype == dtype
    assert found[0].diag().tolist() == pytest.approx([1.1933, 0.9765], rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
