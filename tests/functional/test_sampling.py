from __future__ import annotations

import pytest
import torch

from rlhf_lightning.functional import sample_tokens


def test_the_draw_is_the_first_token_beyond_a_uniform_number() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn, _ = sample_tokens(probabilities.log().repeat(1000, 1), generator=torch.Generator().manual_seed(0))
    edges = [0.1, 0.3, 0.6]  # 0.1, 0.1 + 0.2, 0.1 + 0.2 + 0.3
    assert drawn.tolist() == [sum(u > edge for edge in edges) for u in uniform.squeeze(1).tolist()]


@pytest.mark.parametrize("impossible", [0, 2, 4])
def test_what_has_no_probability_is_never_drawn(impossible: int) -> None:
    logits = torch.tensor([0.3, -1.0, 0.0, 2.0, 0.1])
    logits[impossible] = -torch.inf
    drawn, _ = sample_tokens(logits.repeat(20_000, 1), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=5) / 20_000
    assert shares[impossible] == 0
    torch.testing.assert_close(shares, logits.softmax(-1), rtol=0, atol=0.015)  # 4 standard errors


def test_a_first_token_without_probability_is_not_drawn_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape, dtype=torch.float64))
    assert sample_tokens(torch.tensor([[-torch.inf, 0.0, 1.0]]))[0].tolist() == [1]


def test_the_log_probability_is_that_of_the_token_drawn() -> None:
    logits = 3 * torch.randn(200, 7)
    drawn, logprobs = sample_tokens(logits)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[torch.arange(200), drawn], rtol=0, atol=1e-6)


def test_logits_that_are_no_numbers_are_told_by_a_log_probability_that_is_none() -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = torch.nan
    drawn, logprobs = sample_tokens(logits)
    assert logprobs.isfinite().tolist() == [True, False, True]
    assert drawn.max() < 4
