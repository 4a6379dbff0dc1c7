from __future__ import annotations

import pytest
import torch
from torch import nn

from rlhf_lightning.functional import centering_direction


def test_literal_direction() -> None:
    # Feature 0 is the constant 2, feature 1 has mean 0: all of the bias goes through feature 0, and 2 · ½ = 1.
    features = torch.tensor([[2.0, 1.0], [2.0, -1.0]])
    torch.testing.assert_close(centering_direction(features), torch.tensor([0.5, 0.0], dtype=torch.float64))


def test_it_prefers_the_feature_that_varies_least() -> None:
    # Both have mean 1; variances 0.01 and 1 share the bias as 1/0.01 to 1/1, that is 100 to 1.
    features = torch.tensor([[0.9, 0.0], [1.1, 0.0], [0.9, 2.0], [1.1, 2.0]])
    expected = torch.tensor([100 / 101, 1 / 101], dtype=torch.float64)
    torch.testing.assert_close(centering_direction(features, ridge=0.0), expected, rtol=1e-5, atol=1e-6)


def test_a_bias_along_it_moves_the_mean_by_exactly_that() -> None:
    torch.manual_seed(0)
    features = torch.randn(50, 8) + torch.randn(8)
    weight = torch.randn(8, dtype=torch.float64)
    before = features.double() @ weight
    after = features.double() @ (weight - before.mean() * centering_direction(features))
    assert after.mean().item() == pytest.approx(0.0, abs=1e-9)


def test_behind_a_layer_norm_with_bias_the_shift_is_the_same_for_every_input() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(8)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        seen, unseen = norm(torch.randn(200, 8)), norm(3 * torch.randn(20, 8))
        direction = centering_direction(seen, ridge=1e-8)
    torch.testing.assert_close(unseen.double() @ direction, torch.ones(20, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_fewer_features_than_dimensions_are_enough() -> None:
    features = torch.tensor([[1.0, 2.0, 3.0]])
    assert (features.double() @ centering_direction(features)).item() == pytest.approx(1.0)


def test_what_cannot_be_centred_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        centering_direction(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="mean"):
        centering_direction(torch.tensor([[1.0], [-1.0]]))
