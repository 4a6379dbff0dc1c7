from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from rlhf_lightning.callbacks import PolicyEvaluation
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Lora, load_causal_lm


class Restless:
    """A judge that uses up every global source of randomness; longer is better."""

    def __init__(self) -> None:
        self.left: list[list[str]] = []

    def prefer(self, rows: Any, left: list[str], right: list[str]) -> list[float]:
        random.random(), np.random.rand(), torch.rand(3)
        self.left.append(left)
        return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(left, right, strict=True)]

    def assess(self, rows: Any, responses: list[str]) -> dict[str, list[float]]:
        torch.rand(3)
        return {"gold_reward": [float(len(response)) for response in responses], "rude": [0.0] * len(responses)}


def fitted(make_ppo: Any, make_data: Any, make_trainer: Any, logger: Any, *callbacks: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    module = make_ppo(**settings)
    make_trainer(callbacks=list(callbacks), logger=logger).fit(module, make_data(text=True, iterations=4))
    drawn = random.random(), float(np.random.rand()), torch.rand(4)
    return module, drawn


def test_training_is_bit_for_bit_the_same_and_the_metrics_have_the_names_of_the_report(
    make_ppo: Any, make_data: Any, make_trainer: Any, new_logger: Callable[[], Any], ppo_files: dict[str, str]
) -> None:
    logger, judge = new_logger(), Restless()
    callback = PolicyEvaluation(
        prompts=ppo_files["validation"], judge=judge, every=2, text=ppo_files["text"], text_block=12, batch_size=8
    )
    seen: list[bool] = []
    modes = _ModesAfter(seen)
    watched, drawn = fitted(make_ppo, make_data, make_trainer, logger, callback, modes)
    alone, drawn_alone = fitted(make_ppo, make_data, make_trainer, new_logger())
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, watched.state_dict()[name]), name
    assert drawn[:2] == drawn_alone[:2]
    assert torch.equal(drawn[2], drawn_alone[2])
    assert seen == [True] * 4

    names = ("win_rate_vs_sft", "win_rate_low", "win_rate_high", "gold_reward", "proxy_reward", "kl", "pretrain_loss")
    for name in (*names, "eos_rate", "response_length", "rude"):
        assert len(logger.series(f"eval/{name}")) == 2, name  # of iterations 2 and 4
    for low, mean, high in zip(*(logger.series(f"eval/win_rate_{x}") for x in ("low", "vs_sft", "high")), strict=True):
        assert 0 <= low <= mean <= high <= 1
    assert all(loss > 0 for loss in logger.series("eval/pretrain_loss"))
    assert logger.series("eval/kl")[0] != 0.0


class _ModesAfter(L.Callback):
    """Keeps whether the policy trains after each iteration; it comes behind the evaluation."""

    def __init__(self, seen: list[bool]) -> None:
        self.seen = seen

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.policy.training and not pl_module.reference.training)


def test_a_policy_that_has_not_moved_is_worth_what_its_reference_is(
    make_ppo: Any, make_data: Any, make_trainer: Any, new_logger: Callable[[], Any], ppo_files: dict[str, str]
) -> None:
    logger = new_logger()
    callback = PolicyEvaluation(prompts=ppo_files["validation"], every=4, limit=5, judge=Restless())
    still = {"learning_rate": 0.0, "value_learning_rate": 0.0}
    fitted(make_ppo, make_data, make_trainer, logger, callback, **still)
    assert logger.series("eval/kl") == [pytest.approx(0.0, abs=1e-5)]
    assert len(callback.judge.left[0]) == 5  # type: ignore[union-attr]  # the judge that was given


def test_without_a_judge_the_reward_prefers(
    make_ppo: Any, make_data: Any, make_trainer: Any, new_logger: Callable[[], Any], ppo_files: dict[str, str]
) -> None:
    logger = new_logger()
    fitted(make_ppo, make_data, make_trainer, logger, PolicyEvaluation(prompts=ppo_files["validation"], every=4))
    assert logger.series("eval/gold_reward") == logger.series("eval/proxy_reward")


def test_prompts_are_needed() -> None:
    with pytest.raises(UserError, match=r"prompts is not set.*data.validation"):
        PolicyEvaluation(prompts=None)


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("limit", 0)])
def test_counts_below_one_are_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"policy_evaluation.{name}=0"):
        PolicyEvaluation(prompts="p", **{name: value})


class _Foreign(L.LightningModule):
    """Has what is asked of a module of one's own but the reference."""

    def __init__(self, policy: Any, encoder: Any) -> None:
        super().__init__()
        self.policy, self.encoder = policy, encoder
        self.reward, self.temperature, self.max_new_tokens = (lambda prompts, texts: [1.0] * len(texts)), 1.0, 4


def test_a_module_of_one_s_own_is_told_what_it_lacks(
    make_causal_lm: Callable[..., Any], encoder: Any, ppo_files: dict[str, str]
) -> None:
    module = _Foreign(make_causal_lm(), encoder)
    callback = PolicyEvaluation(prompts=ppo_files["validation"], every=1)
    with pytest.raises(UserError, match=r"reads policy, reference, .* of a module and _Foreign lacks reference"):
        callback.on_fit_start(L.Trainer(logger=False), module)
    module.reference = make_causal_lm()
    callback.on_fit_start(L.Trainer(logger=False), module)
    found = callback._evaluate(module)
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["proxy_reward"] == 1.0


def test_the_reference_may_be_the_policy_without_its_adapter(
    make_ppo: Any, make_data: Any, make_trainer: Any, new_logger: Any, causal_lm_folders: Any, ppo_files: Any
) -> None:
    logger = new_logger()
    callback = PolicyEvaluation(prompts=ppo_files["validation"], judge=Restless(), every=2)

    def adapted() -> Any:
        return load_causal_lm(name=str(causal_lm_folders["llama"]), lora=Lora(rank=2))

    module, _ = fitted(make_ppo, make_data, make_trainer, logger, callback, policy=adapted, value=None, roles="shared")
    assert module.reference is None
    assert len(logger.series("eval/win_rate_vs_sft")) == 2
