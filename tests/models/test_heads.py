from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.models import ScalarModel

LENGTHS = torch.tensor([7, 3, 10, 1])


@pytest.fixture
def scalar(architecture: str, make_scalar_model: Callable[[str], ScalarModel]) -> ScalarModel:
    return make_scalar_model(architecture)


@pytest.fixture
def input_ids() -> Tensor:
    ids = torch.randint(3, 30, (4, 10))
    return ids.masked_fill(torch.arange(10) >= LENGTHS.unsqueeze(1), 1)


def test_the_score_is_the_scalar_at_the_last_token(scalar: ScalarModel, input_ids: Tensor) -> None:
    scores, scalars = scalar.score(input_ids, LENGTHS), scalar(input_ids)
    assert scalars.shape == (4, 10)
    for row, length in enumerate(LENGTHS.tolist()):
        backbone = scalar.model.base_model(input_ids=input_ids[row : row + 1, :length]).last_hidden_state[0]
        expected = backbone @ scalar.head.weight[0]
        torch.testing.assert_close(scalars[row, :length], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores[row], expected[-1], rtol=1e-4, atol=1e-5)


def test_scores_depend_neither_on_padding_side_nor_on_batch_mates(scalar: ScalarModel, input_ids: Tensor) -> None:
    scores = scalar.score(input_ids, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = scalar.score(input_ids[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(alone[0], scores[row], rtol=0, atol=1e-5)
    columns = torch.arange(14) - (14 - LENGTHS.unsqueeze(1))
    left = input_ids.gather(1, columns.clamp(min=0, max=9)).masked_fill(columns < 0, 1)
    torch.testing.assert_close(scalar(left, attention_mask=columns >= 0)[:, -1], scores, rtol=0, atol=1e-5)


def test_an_eos_that_is_also_padding_is_scored(scalar: ScalarModel) -> None:
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 0]])  # 0 ends both rows, and fills the first
    scores = scalar.score(ids, torch.tensor([3, 4]))
    torch.testing.assert_close(scores[0], scalar(ids[:1, :3])[0, -1], rtol=0, atol=1e-5)
    assert (scores[0] - scalar.score(ids, torch.tensor([2, 4]))[0]).abs() > 1e-3


def test_a_new_head_is_drawn_from_the_generator(scalar: ScalarModel) -> None:
    scalar.reset_head(torch.Generator().manual_seed(0))
    first = scalar.head.weight.clone()
    scalar.reset_head(torch.Generator().manual_seed(0))
    assert torch.equal(scalar.head.weight, first)
    scalar.reset_head(torch.Generator().manual_seed(1))
    assert not torch.equal(scalar.head.weight, first)


def test_a_new_head_is_as_small_as_announced(scalar: ScalarModel) -> None:
    scalar.model.score = nn.Linear(9999, 1, bias=False)
    scalar.reset_head(torch.Generator().manual_seed(0))
    assert scalar.head.weight.std().item() == pytest.approx(1 / math.sqrt(10_000), rel=0.05)


def test_a_model_without_a_scalar_head_is_refused(causal_lm: PreTrainedModel, scalar: ScalarModel) -> None:
    with pytest.raises(ValueError, match="has no linear head `score` with one output"):
        ScalarModel(causal_lm).score(torch.ones(1, 2, dtype=torch.long), torch.tensor([2]))
    scalar.model.score = nn.Linear(32, 2)
    with pytest.raises(ValueError, match="one output"):
        scalar(torch.ones(1, 2, dtype=torch.long))
