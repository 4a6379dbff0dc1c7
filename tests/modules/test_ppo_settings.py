"""Settings of PPO that cannot work are refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest

from rlhf_lightning.data import PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import PPOModule

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]
Run = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "module.max_new_tokens=0"),
        ({"epochs": 0}, "module.epochs=0"),
        ({"minibatch_size": 0}, "module.minibatch_size=0"),
        ({"temperature": 0.0}, "module.temperature=0.0"),
        ({"gamma": 1.5}, "module.gamma=1.5"),
        ({"lam": -0.1}, "module.lam=-0.1"),
        ({"missing_eos": "ignore"}, "module.missing_eos='ignore'"),
        ({"kl_estimator": "k9"}, "module.kl_estimator='k9'"),
        (
            {"minibatch_size": 8, "micro_batch_size": 3},
            "module.micro_batch_size=3 does not divide module.minibatch_size=8",
        ),
        ({"micro_batch_size": 0}, "module.micro_batch_size=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_ppo: MakePPO, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_ppo(**options)
    assert "\n" not in str(caught.value)


def test_batch_sizes_that_do_not_divide_are_refused_with_both_numbers(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch, text: TokenBatch
) -> None:
    with pytest.raises(UserError, match=r"module.minibatch_size=3 does not divide data.rollout_batch_size=8"):
        run(make_ppo(minibatch_size=3), {"prompts": prompts})
    odd = TokenBatch(*(field[:15] for field in text))
    with pytest.raises(UserError, match=r"15 pretraining rows .* do not divide into 4 minibatches"):
        run(make_ppo(minibatch_size=2), {"prompts": prompts, "text": odd})


def test_batch_sizes_of_the_data_are_checked_before_anything_runs(
    make_trainer: Callable[..., L.Trainer], loader: Callable[..., Any], make_ppo: MakePPO, prompts: PromptBatch
) -> None:
    class Data(L.LightningDataModule):
        rollout_batch_size, ptx_ratio, text = 12, 1, None

        def train_dataloader(self) -> Any:
            raise AssertionError("data was asked for")

    with pytest.raises(UserError, match=r"module.minibatch_size=8 does not divide data.rollout_batch_size=12"):
        make_trainer().fit(make_ppo(), datamodule=Data())


def test_a_response_that_may_not_fit_the_context_is_refused(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    with pytest.raises(UserError, match="72 tokens does not fit the model's context of 64"):
        run(make_ppo(max_new_tokens=60), {"prompts": prompts})
