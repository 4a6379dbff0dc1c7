"""Plans of real modules and data modules against what they were configured with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from rlhf_lightning.data import (
    ComparisonDataModule,
    DemonstrationDataModule,
    Encoder,
    PromptDataModule,
    TextDataModule,
)
from rlhf_lightning.models import (
    Lora,
    adamw8bit,
    load_causal_lm,
    load_scalar_model,
    model_size,
    save_model_folder,
    trained_reward,
)
from rlhf_lightning.modules import Muon, PPOModule, RewardModule, SFTModule
from rlhf_lightning.modules.run_plan import memory_plan, optimizer_kind, run_schedule
from rlhf_lightning.planning import activation_bytes, logits_bytes

LORA = Lora(rank=2)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def prompts(tmp_path: Path, encoder: Encoder) -> Callable[..., PromptDataModule]:
    file = write(tmp_path / "prompts.jsonl", [{"prompt": "a" * 9}, {"prompt": "b" * 4}])
    text = write(tmp_path / "text.jsonl", [{"text": "a bee is not a cat. " * 20}])

    def make(**options: Any) -> PromptDataModule:
        settings: dict[str, Any] = {"iterations": 5, "rollout_batch_size": 8, "text_block": 16, "ptx_ratio": 2}
        data = PromptDataModule(encoder=encoder, train=file, **settings | options)
        data.setup()
        data.text = data.text and text
        return data

    return make


@pytest.fixture
def ppo(
    causal_lm_folders: dict[str, Path], reward_model_folders: dict[str, Path], encoder: Encoder
) -> Callable[..., PPOModule]:
    def make(**options: Any) -> PPOModule:
        settings: dict[str, Any] = {
            "policy": functools.partial(load_causal_lm, name=str(causal_lm_folders["llama"])),
            "value": functools.partial(load_scalar_model, name=str(reward_model_folders["llama"])),
            "reward": trained_reward(name=str(reward_model_folders["llama"])),
            "encoder": encoder,
            "max_new_tokens": 6,
            "minibatch_size": 4,
            "micro_batch_size": 2,
            "epochs": 2,
        }
        return PPOModule(**settings | options)

    return make


def test_separate_roles(ppo: Callable[..., PPOModule], prompts: Any, causal_lm_folders: dict[str, Path]) -> None:
    plan = memory_plan(ppo(), prompts())
    assert plan is not None
    roles = {role.role: role for role in plan.roles}
    policy = model_size(name=str(causal_lm_folders["llama"]))
    scalar = model_size(name=str(causal_lm_folders["llama"]), scalar=True)
    assert list(roles) == ["policy", "reference", "value", "reward"]
    assert [roles[name].weights for name in roles] == [policy.weight_bytes] * 2 + [scalar.weight_bytes] * 2
    assert [roles[name].gradients for name in roles] == [policy.weight_bytes, 0, scalar.weight_bytes, 0]
    assert [roles[name].optimizer for name in roles] == [2 * policy.weight_bytes, 0, 2 * scalar.weight_bytes, 0]
    # A prompt of 9 letters and the response of 6 tokens, two at a time.
    kept, logits = activation_bytes(policy, 2, 9 + 6), logits_bytes(policy, 2 * 6)
    assert roles["policy"].activations == kept + logits
    lasting = 2 * (policy.weight_bytes + scalar.weight_bytes) + 2 * (policy.weight_bytes + scalar.weight_bytes)
    gradients = policy.weight_bytes + scalar.weight_bytes
    work = max(kept + logits + policy.largest_bytes, 2 * policy.largest_bytes)
    assert plan.phases["update"] == pytest.approx(lasting + gradients + work)
    assert plan.kept == activation_bytes(scalar, 2, 15) == kept


def test_rollouts_that_are_sampled_early_stand_beside_the_update(
    ppo: Callable[..., PPOModule], prompts: Any, causal_lm_folders: dict[str, Path]
) -> None:
    plain, early = memory_plan(ppo(), prompts()), memory_plan(ppo(async_rollouts=True), prompts())
    assert plain is not None and early is not None
    copy = model_size(name=str(causal_lm_folders["llama"])).weight_bytes
    assert [role.role for role in early.roles] == ["policy", "reference", "value", "reward", "sampling copy"]
    assert early.roles[-1].weights == early.roles[-1].lasting == copy
    lasting = sum(role.lasting for role in plain.roles)
    beside = max(plain.phases["rollout"], plain.phases["evaluate"]) - lasting
    added = {phase: early.phases[phase] - plain.phases[phase] for phase in plain.phases}
    assert added == pytest.approx({"rollout": copy, "score": copy, "evaluate": copy, "update": copy + beside})


def test_pretraining_text_and_no_value(ppo: Callable[..., PPOModule], prompts: Any) -> None:
    data = prompts(text=None)
    with_text = prompts()
    with_text.text = "a file"
    plain, ptx = memory_plan(ppo(value=None), data), memory_plan(ppo(value=None), with_text)
    assert plain is not None and ptx is not None
    assert [role.role for role in plain.roles] == ["policy", "reference", "reward"]
    assert ptx.phases["update"] > plain.phases["update"]
    assert ptx.phases["rollout"] == plain.phases["rollout"]


def test_shared_roles_add_adapters_alone(
    ppo: Callable[..., PPOModule],
    prompts: Any,
    causal_lm_folders: dict[str, Path],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    name = str(causal_lm_folders["llama"])
    reward = load_scalar_model(name=name, head="new", lora=LORA)
    folder = str(save_model_folder(reward, encoder, tmp_path / "reward"))
    module = ppo(
        policy=functools.partial(load_causal_lm, name=name, lora=LORA),
        reward=trained_reward(name=folder, roles="shared"),
        roles="shared",
    )
    plan = memory_plan(module, prompts())
    assert plan is not None
    size = model_size(name=name, lora=LORA)
    assert {role.role: role.weights for role in plan.roles} == {
        "policy": size.weight_bytes,
        "value": size.trained_bytes,
        "reward": size.trained_bytes,
    }


def test_functions_of_a_users_own_are_not_called(ppo: Callable[..., PPOModule], prompts: Any) -> None:
    def never() -> Any:
        raise AssertionError("called")

    assert memory_plan(ppo(policy=never), prompts()) is None
    assert memory_plan(ppo(), None) is None
    assert memory_plan(SFTModule(policy=never), prompts()) is None


def test_supervised_stages(causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path) -> None:
    name = str(causal_lm_folders["gpt2"])
    rows = [{"prompt": "ab", "response": "c" * length} for length in (5, 12, 1)]
    demonstrations = DemonstrationDataModule(encoder=encoder, train=write(tmp_path / "d.jsonl", rows), batch_size=2)
    demonstrations.setup()
    sft = memory_plan(SFTModule(policy=functools.partial(load_causal_lm, name=name)), demonstrations)
    size = model_size(name=name)
    assert sft is not None and sft.stage == "sft"
    assert sft.kept == activation_bytes(size, 2, 2 + 12 + 1)  # the longest row, with its EOS

    ranked = [{"prompt": "a", "responses": ["b", "cc", "ddd"][:k], "ranks": [1, 2, 3][:k]} for k in (2, 3, 3)]
    comparisons = ComparisonDataModule(encoder=encoder, train=write(tmp_path / "c.jsonl", ranked), batch_size=2)
    comparisons.setup()
    model = functools.partial(load_scalar_model, name=name, head="new")
    reward = memory_plan(RewardModule(reward_model=model), comparisons)
    assert reward is not None and reward.stage == "reward"
    assert reward.kept == activation_bytes(model_size(name=name, scalar=True), 3 + 3, 1 + 3 + 1)


def test_schedules_are_what_a_run_does(
    ppo: Callable[..., PPOModule], prompts: Any, make_trainer: Callable[..., L.Trainer]
) -> None:
    module, data = ppo(), prompts(iterations=3)
    trainer = make_trainer()
    planned = run_schedule(module, data, trainer)
    trainer.fit(module, datamodule=data)
    assert planned is not None
    assert (planned.iterations, planned.rows, planned.optimizer_steps) == (3, 24, 12)
    assert trainer.global_step == planned.optimizer_steps
    assert module.iterations == planned.iterations


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_epochs": 2},
        {"max_steps": 3},
        {"limit_train_batches": 1},
        {"max_epochs": -1, "max_steps": 20},
        {"max_epochs": None, "max_steps": 20},
        {"max_epochs": 0},
    ],
)
def test_supervised_schedules_are_what_a_run_does(
    causal_lm_folders: dict[str, Path],
    encoder: Encoder,
    tmp_path: Path,
    make_trainer: Callable[..., L.Trainer],
    options: dict[str, Any],
) -> None:
    file = write(tmp_path / "text.jsonl", [{"text": "a bee is not a cat. " * 4}])
    data = TextDataModule(encoder=encoder, train=file, block_size=16, batch_size=2)
    data.setup()
    module = SFTModule(policy=functools.partial(load_causal_lm, name=str(causal_lm_folders["llama"])))
    trainer = make_trainer(**{"max_epochs": 1} | options)
    planned = run_schedule(module, data, trainer)
    trainer.fit(module, datamodule=data)
    assert planned is not None
    assert trainer.global_step == planned.optimizer_steps
    assert planned.pretraining_tokens == planned.rows * 16


def test_a_schedule_that_the_module_refuses_is_left_to_it(
    ppo: Callable[..., PPOModule], prompts: Any, make_trainer: Callable[..., L.Trainer]
) -> None:
    assert run_schedule(ppo(minibatch_size=16), prompts(), make_trainer(max_steps=4)) is None


def test_optimizers_are_recognised() -> None:
    assert optimizer_kind(functools.partial(adamw8bit, paged=True)) == "adamw8bit"
    assert optimizer_kind(functools.partial(Muon)) == "muon"
    assert optimizer_kind(functools.partial(torch.optim.AdamW, fused=True)) == "adamw"
    assert optimizer_kind(None) == "adamw"
