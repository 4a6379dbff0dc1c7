"""Micro-batches by tokens: what fits, and the same gradients as those of the whole batch, in every stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_lightning.data import ComparisonBatch, PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import ScalarModel
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule
from rlhf_lightning.modules.batching import micro_batches

Fit = Callable[..., L.Trainer]


@pytest.mark.parametrize(
    ("size", "tokens", "expected"),
    [
        (None, 12, [[1, 4], [3, 0], [2], [5]]),  # 2 rows of 2, 2 of 5; 3 of 5 would be 15
        (None, 15, [[1, 4], [3, 0], [2], [5]]),
        (None, 20, [[1, 4, 3, 0], [2, 5]]),  # 4 rows of 5; 2 rows of 10
        (2, 20, [[1, 4], [3, 0], [2, 5]]),
        (None, 1, [[1], [4], [3], [0], [2], [5]]),  # each of them too long, and alone
        (None, 1000, [[1, 4, 3, 0, 2, 5]]),
    ],
)
def test_a_micro_batch_holds_as_many_rows_as_fit_with_their_padding(
    size: int | None, tokens: int, expected: list[list[int]]
) -> None:
    parts = micro_batches(torch.tensor([5, 1, 9, 3, 2, 10]), size, tokens)
    assert [rows.tolist() for rows in parts] == expected


def test_rows_of_very_different_length_are_apart_unless_passes_are_dear() -> None:
    lengths = torch.tensor([400, 30, 410, 40])
    assert [rows.tolist() for rows in micro_batches(lengths, None)] == [[1, 3], [0, 2]]
    assert [rows.tolist() for rows in micro_batches(lengths, None, few_passes=True)] == [[1, 3, 0, 2]]


def _stages(
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
    make_ppo: Callable[..., PPOModule],
) -> dict[str, Callable[..., L.LightningModule]]:
    def sft(**options: Any) -> SFTModule:
        return SFTModule(policy=make_causal_lm, max_grad_norm=None, **options)

    def reward(**options: Any) -> RewardModule:
        return RewardModule(reward_model=make_scalar_model, max_grad_norm=None, center=False, **options)

    def ppo(**options: Any) -> PPOModule:
        return make_ppo(ptx_coef=1.0, **options)

    return {"sft": sft, "reward": reward, "ppo": ppo}


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
@pytest.mark.parametrize("limit", [1, 40, 100])
def test_the_gradient_is_that_of_the_whole_batch(
    fit: Fit,
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
    make_ppo: Callable[..., PPOModule],
    make_recorder: Callable[[], Any],
    assert_same_gradients: Callable[..., None],
    request: pytest.FixtureRequest,
    stage: str,
    limit: int,
) -> None:
    data: dict[str, TokenBatch | ComparisonBatch | PromptBatch] = {
        name: request.getfixturevalue(name) for name in ("tokens", "comparisons", "prompts", "text")
    }
    batch: Any = {"sft": data["tokens"], "reward": data["comparisons"]}.get(
        stage, {"prompts": data["prompts"], "text": data["text"]}
    )
    make, found, passes = _stages(make_causal_lm, make_scalar_model, make_ppo)[stage], [], []
    for most in (None, limit):
        recorder, backward = make_recorder(), []
        module = make(optimizer=recorder, micro_batch_tokens=most)
        manual = module.manual_backward

        def counted(loss: Tensor, manual: Any = manual, backward: list[int] = backward) -> None:
            backward.append(1)
            manual(loss)

        # What Lightning's own method does, counted.
        module.manual_backward = counted  # type: ignore[method-assign, assignment]
        fit(module, [batch])
        found.append(recorder.gradients[0])
        passes.append(len(backward))
    assert_same_gradients(found[1], found[0])
    assert passes[1] > passes[0]


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_room_for_nothing_is_refused(
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
    make_ppo: Callable[..., PPOModule],
    stage: str,
) -> None:
    with pytest.raises(UserError, match=r"module.micro_batch_tokens=0 must be at least 1"):
        _stages(make_causal_lm, make_scalar_model, make_ppo)[stage](micro_batch_tokens=0)
