"""Learning, as a check of signs: what is rewarded comes more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from rlhf_lightning.data import Encoder, PromptBatch, collate_prompts
from rlhf_lightning.modules import PPOModule

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]


def _share_of_e(prompts: list[str], responses: list[str]) -> Tensor:
    return torch.tensor([response.count("e") / max(len(response), 1) for response in responses])


def _many_prompts(encoder: Encoder, count: int) -> PromptBatch:
    texts = [chr(ord("a") + index % 26) * (1 + index % 4) for index in range(count)]
    return collate_prompts([{"input_ids": encoder.prompt(t), "prompt": t} for t in texts], pad_id=encoder.pad_token_id)


def test_the_policy_learns_what_is_rewarded(fit: Fit, make_ppo: MakePPO, encoder: Encoder, architecture: str) -> None:
    scores: list[float] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            scores.append(float(outputs["rollout"].scores.mean()))

    module = make_ppo(
        architecture,
        reward=_share_of_e,
        missing_eos="keep",
        kl_coef=0.001,
        minibatch_size=32,
        max_new_tokens=6,
        learning_rate=1e-2,
        value_learning_rate=1e-2,
        epochs=2,
        max_grad_norm=1.0,
    )
    fit(module, [{"prompts": _many_prompts(encoder, 64)}] * 12, callbacks=[Keep()])
    assert scores[0] < 0.15
    assert scores[-1] > 0.7


def test_a_large_kl_coefficient_holds_the_policy_near_the_reference(
    fit: Fit, make_ppo: MakePPO, encoder: Encoder
) -> None:
    def final_kl(kl_coef: float) -> float:
        module = make_ppo(
            reward=_share_of_e,
            kl_coef=kl_coef,
            minibatch_size=32,
            max_new_tokens=6,
            learning_rate=5e-3,
            missing_eos="keep",
        )
        return float(fit(module, [{"prompts": _many_prompts(encoder, 32)}] * 8).callback_metrics["rollout/kl"])

    assert final_kl(1.0) < 0.5 * final_kl(0.0)


def test_the_value_model_learns_the_returns(fit: Fit, make_ppo: MakePPO, encoder: Encoder) -> None:
    losses: list[float] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(float(outputs["updates"]["value_loss"]))

    def by_prompt(prompts: list[str], responses: list[str]) -> list[float]:
        return [2.0 if prompt[0] < "n" else -2.0 for prompt in prompts]

    module = make_ppo(
        reward=by_prompt,
        missing_eos="keep",
        learning_rate=0.0,
        value_learning_rate=1e-2,
        value_clip=None,
        minibatch_size=26,
        max_new_tokens=4,
        lam=1.0,
    )
    fit(module, [{"prompts": _many_prompts(encoder, 52)}] * 15, callbacks=[Keep()])
    assert losses[-1] < 0.2 * losses[0]
