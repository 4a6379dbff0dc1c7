"""PPO with an engine of one's own, and how far what it sampled from is from the policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.data import PromptBatch
from rlhf_lightning.models import Generation, NativeEngine
from rlhf_lightning.modules import PPOModule

Fit = Callable[..., L.Trainer]


class Stubborn:
    """An engine that answers every prompt with the same two tokens, of which it is sure."""

    def __init__(self, logprobs: float | None) -> None:
        self.logprobs = logprobs

    def check(self, model: nn.Module) -> None:
        pass

    def generate(self, model: nn.Module, input_ids: Tensor, lengths: Tensor, **options: Any) -> Generation:
        count, eos = len(input_ids), options["eos_token_id"]
        ids = torch.tensor([[5, eos]]).repeat(count, 1)
        known = None if self.logprobs is None else torch.full((count, 2), self.logprobs)
        return Generation(ids, torch.full((count,), 2), torch.ones(count, dtype=torch.bool), known)


def test_an_engine_of_ones_own_and_the_gap_to_the_policy(
    fit: Fit, make_ppo: Callable[..., PPOModule], prompts: PromptBatch, iterations: Any
) -> None:
    trainer = fit(make_ppo(engine=Stubborn(-0.5)), [{"prompts": prompts}], callbacks=[iterations])
    trajectory = iterations.outputs[0]["trajectory"]
    assert trajectory.input_ids[0, trajectory.prompt_lengths[0]] == 5
    expected = (trajectory.logprobs + 0.5).abs().mean()  # every response has two tokens
    assert trainer.callback_metrics["rollout/engine_gap"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_engine_that_does_not_know_logs_no_gap(
    fit: Fit, make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    trainer = fit(make_ppo(engine=Stubborn(None)), [{"prompts": prompts}])
    assert "rollout/engine_gap" not in trainer.callback_metrics


def test_the_native_engine_samples_from_the_policy(
    fit: Fit, make_ppo: Callable[..., PPOModule], prompts: PromptBatch, architecture: str
) -> None:
    module = make_ppo(architecture, engine=NativeEngine(batch_size=3), temperature=0.7)
    assert fit(module, [{"prompts": prompts}]).callback_metrics["rollout/engine_gap"] < 1e-5
