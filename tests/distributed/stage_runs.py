"""The stages as processes of test_*.py train them, on whole models and on adapters."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from adapted import adapter_of, roles_of
from watching import Watch, result, trainer

from rlhf_lightning.callbacks import HuggingFaceExport
from rlhf_lightning.data import ComparisonDataModule, DemonstrationDataModule, Encoder, PromptBatch, PromptDataModule
from rlhf_lightning.models import Generation, generate, load_causal_lm, load_scalar_model, whole
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule


def sft(
    *, world: int, strategy: str, model: str, files: dict[str, str], lora: Any = None, **options: Any
) -> dict[str, Any]:
    """Three steps of 8 demonstrations, two at a time, and a validation whose batches do not divide evenly."""
    module = SFTModule(
        policy=lambda: load_causal_lm(name=model, lora=adapter_of(lora)),
        learning_rate=3e-4,
        micro_batch_size=2,
        max_grad_norm=0.5,
        weight_decay=0.1,
    )
    data = DemonstrationDataModule(
        encoder=Encoder.from_pretrained(model),
        train=files["demonstrations"],
        validation=files["held_out"],
        batch_size=8,
        **options,
    )
    watch = Watch()
    trainer(strategy, world, watch, max_steps=3).fit(module, data)
    return result(watch)


def packed(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, Any]:
    """The same with several demonstrations in a row, of which ranks get different numbers."""
    return sft(world=world, strategy=strategy, model=model, files=files, packing=64)


def reward(
    *, world: int, strategy: str, model: str, files: dict[str, str], lora: Any = None, folder: str = "", **options: Any
) -> dict[str, Any]:
    """Three steps of 8 prompts with 2 to 4 completions, and the bias; a model folder, if one is named."""
    module = RewardModule(
        reward_model=lambda: load_scalar_model(name=model, head="new", lora=adapter_of(lora)),
        learning_rate=3e-4,
        micro_batch_size=2,
        max_grad_norm=0.5,
        **options,
    )
    data = ComparisonDataModule(
        encoder=Encoder.from_pretrained(model),
        train=files["comparisons"],
        validation=files["comparisons"],
        demonstrations=files["held_out"],
        batch_size=8,
    )
    watch = Watch()
    export = [HuggingFaceExport(folder=folder, role="reward_model")] if folder else []
    trainer(strategy, world, watch, *export, max_steps=3).fit(module, data)
    head = whole(module.reward_model.head.weight.detach())
    return result(watch) | {"head": head, "folder": folder}


class Reproducible(PPOModule):
    """Samples each response from a stream that belongs to its prompt, so that it does not depend on the rank."""

    def rollout(self, prompts: PromptBatch, generator: torch.Generator | None) -> Generation:
        found = []
        for row, length in zip(prompts.input_ids, prompts.lengths.tolist(), strict=True):
            ids = row[:length]
            seed = int.from_bytes(hashlib.blake2b(f"{self.iterations}{ids.tolist()}".encode()).digest()[:4], "big")
            found.append(
                generate(
                    self.policy,
                    ids[None],
                    torch.tensor([length]),
                    max_new_tokens=self.max_new_tokens,
                    eos_token_id=self.encoder.eos_token_id,
                    pad_token_id=self.encoder.pad_token_id,
                    generator=torch.Generator().manual_seed(seed),
                )
            )
        ids = torch.full((len(found), self.max_new_tokens), self.encoder.pad_token_id)
        for row, one in zip(ids, found, strict=True):
            row[: one.response_ids.shape[1]] = one.response_ids[0]
        lengths = torch.cat([one.lengths for one in found])
        return Generation(ids[:, : int(lengths.max())], lengths, torch.cat([one.finished for one in found]))


def ppo_module(
    model: str, *, cls: type[PPOModule] = PPOModule, adapted: dict[str, Any] | None = None, **options: Any
) -> PPOModule:
    settings: dict[str, Any] = {
        **roles_of(model, **(adapted or {})),
        "encoder": Encoder.from_pretrained(model),
        "max_new_tokens": 6,
        "minibatch_size": 4,
        "micro_batch_size": 1,
        "epochs": 2,
        "ptx_coef": 0.5,
        "kl_coef": 0.1,
        "learning_rate": 3e-4,
        "value_learning_rate": 3e-4,
        "max_grad_norm": 0.5,
        "whiten_rewards": True,
        "warmup_iterations": 0,
    }
    return cls(**settings | options)


def ppo_data(model: str, files: dict[str, str], **options: Any) -> PromptDataModule:
    settings: dict[str, Any] = {
        "encoder": Encoder.from_pretrained(model),
        "train": files["prompts"],
        "text": files["text"],
        "rollout_batch_size": 8,
        "iterations": 3,
        "ptx_ratio": 1,
        "text_block": 12,
    }
    return PromptDataModule(**settings | options)


def ppo(
    *, world: int, strategy: str, model: str, files: dict[str, str], folder: str = "", **adapted: Any
) -> dict[str, Any]:
    """Three iterations of PPO-ptx with two epochs of two minibatches, and a validation."""
    module = ppo_module(model, cls=Reproducible, adapted=adapted)
    watch = Watch()
    export = [HuggingFaceExport(folder=folder)] if folder else []
    trainer(strategy, world, watch, *export).fit(module, ppo_data(model, files, validation=files["validation"]))
    rollouts = [output["rollout"] for output in watch.outputs]
    found = {"responses": [r.responses for r in rollouts], "prompts": [r.prompts for r in rollouts]}
    return result(watch) | found | {"folder": folder}
