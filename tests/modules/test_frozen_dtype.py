"""What does not train in a dtype of its own: the reference, the reward model, a base beneath an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf_lightning.data import PromptBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Lora, load_causal_lm, torch_dtype, trained_reward
from rlhf_lightning.modules import PPOModule

Fit = Callable[..., L.Trainer]


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}


def test_the_reference_is_kept_in_it_and_the_policy_is_not(
    fit: Fit, make_ppo: Callable[..., PPOModule], prompts: PromptBatch, architecture: str, iterations: Any
) -> None:
    module = make_ppo(architecture, frozen_dtype="bf16")
    fit(module, [{"prompts": prompts}], callbacks=[iterations])
    assert _dtypes(module.reference) == {torch.bfloat16}
    assert _dtypes(module.policy) == _dtypes(module.value) == {torch.float32}
    # The frequencies of rotary positions are buffers, which bfloat16 would make wrong beyond a few hundred tokens.
    assert all(buffer.dtype != torch.bfloat16 for buffer in module.reference.buffers())
    trajectory = iterations.outputs[0]["trajectory"]
    gap = (trajectory.logprobs - trajectory.ref_logprobs)[trajectory.mask].abs()
    assert 0 < gap.mean() < 0.05


def test_a_reference_of_another_model_is_still_noticed(
    fit: Fit, make_ppo: Callable[..., PPOModule], make_causal_lm: Callable[..., PreTrainedModel], prompts: PromptBatch
) -> None:
    def other() -> PreTrainedModel:
        model = make_causal_lm("llama")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        return model

    with pytest.raises(UserError, match="policy differs from the reference"):
        fit(make_ppo(reference=other, frozen_dtype="bf16"), [{"prompts": prompts}])


def test_the_base_beneath_an_adapter_and_the_reward_model(
    causal_lm_folders: dict[str, Path], reward_model_folders: dict[str, Path]
) -> None:
    name = str(causal_lm_folders["llama"])
    adapted = load_causal_lm(name=name, frozen_dtype="bf16", lora=Lora(rank=2))
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert _dtypes(load_causal_lm(name=name, frozen_dtype="bf16")) == {torch.float32}
    reward = trained_reward(name=str(reward_model_folders["llama"]), frozen_dtype="bfloat16")
    assert _dtypes(reward.model) == {torch.bfloat16}  # type: ignore[arg-type]  # roles are separate: it is there


@pytest.mark.parametrize("name", ["bf17", "int8", "float"])
def test_no_such_type(name: str) -> None:
    if name == "float":
        assert torch_dtype(name) == torch.float32  # torch's own other name
        return
    with pytest.raises(UserError, match=rf"module.frozen_dtype='{name}' is no torch dtype"):
        torch_dtype(name, "module.frozen_dtype")
