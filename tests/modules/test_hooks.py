"""The methods that the guide offers to be overridden are the ones that a run goes through."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from transformers import PreTrainedModel

from rlhf_lightning.data import ComparisonBatch, PromptBatch, TokenBatch
from rlhf_lightning.models import ScalarModel
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule

GUIDE = (Path(__file__).parents[2] / "GUIDE.md").read_text()
TABLE = GUIDE.split("## Where to hook in")[1].split("## ")[0]
HOOKS = [
    name for row in re.findall(r"^\| (`.*?) \|", TABLE, flags=re.MULTILINE) for name in re.findall(r"`(\w+)\(", row)
]


def counting(cls: type[L.LightningModule], names: list[str], calls: list[str]) -> Any:
    """A subclass that notes each call."""

    def noting(name: str) -> Callable[..., Any]:
        def method(self: Any, *arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return getattr(super(made, self), name)(*arguments, **options)

        return method

    made: Any = type("Mine", (cls,), {name: noting(name) for name in names})
    return made


def test_a_run_of_ppo_goes_through_every_hook(
    run: Callable[..., Any], make_ppo: Callable[..., PPOModule], prompts: PromptBatch, text: TokenBatch
) -> None:
    assert len(HOOKS) == 9
    calls: list[str] = []
    run(make_ppo(cls=counting(PPOModule, HOOKS, calls), target_kl=1.0), {"prompts": prompts, "text": text})
    assert set(calls) == set(HOOKS)


def test_sft_and_reward_training_go_through_theirs(
    fit: Callable[..., Any],
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
    tokens: TokenBatch,
    comparisons: ComparisonBatch,
) -> None:
    calls: list[str] = []
    fit(counting(SFTModule, ["loss"], calls)(policy=make_causal_lm), [tokens])
    fit(counting(RewardModule, ["score"], calls)(reward_model=make_scalar_model), [comparisons])
    assert set(calls) == {"loss", "score"}
    assert "`loss(batch, count)`" in TABLE and "`score(input_ids, lengths)`" in TABLE


@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_statistics_of_micro_batches_add_up(
    run: Callable[..., Any], make_ppo: Callable[..., PPOModule], prompts: PromptBatch, micro_batch_size: int
) -> None:
    class Counting(PPOModule):
        def policy_loss(self, part: Any, count: Any) -> Any:
            loss, statistics = super().policy_loss(part, count)
            return loss, statistics | {"share": part.mask.sum() / count}

    (out,) = run(make_ppo(cls=Counting, micro_batch_size=micro_batch_size), {"prompts": prompts})
    assert float(out["updates"]["share"]) == pytest.approx(1.0)
