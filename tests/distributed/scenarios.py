"""What the processes of test_*.py do; every function returns plain values and tensors that the tests compare."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from rlhf_lightning.callbacks import AdaptiveKLController, IterationCheckpoint, PolicyEMA, newest_checkpoint
from rlhf_lightning.data import ComparisonDataModule, DemonstrationDataModule, Encoder, PromptBatch, PromptDataModule
from rlhf_lightning.models import (
    Generation,
    Lora,
    Quantization,
    SharedReward,
    adamw8bit,
    generate,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
    whole,
)
from rlhf_lightning.modules import Muon, PPOModule, RewardModule, SFTModule


class Watch(L.Callback):
    """Keeps the logged metrics of every step, the optimizer's state and the weights at the beginning and the end."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.outputs: list[Any] = []
        self.begin: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begin = state(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.outputs.append(outputs)
        self.last = state(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end = state(pl_module)
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def state(module: L.LightningModule) -> dict[str, Tensor]:
    """Weights of the roles and moments of the optimizer, in full, by name."""
    found = {}
    optimizer: Any = module.optimizers()
    for name, parameter in module.named_parameters():
        found[name] = whole(parameter.detach()).clone()
        for moment, value in optimizer.state.get(parameter, {}).items():
            if torch.is_tensor(value):
                found[f"{name}/{moment}"] = whole(value.detach()).clone()
    return found


def trainer(strategy: str, world: int, *callbacks: L.Callback, folder: str = ".", **options: Any) -> L.Trainer:
    strategies: dict[str, Any] = {
        "auto": lambda: "auto",
        "ddp": DDPStrategy,
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1),
    }
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": world,
        "strategy": strategies[strategy](),
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(c, L.pytorch.callbacks.Checkpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,
        "num_sanity_val_steps": 0,
        "callbacks": list(callbacks),
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    return L.Trainer(**settings | options)


def result(watch: Watch) -> dict[str, Any]:
    return {"steps": watch.steps, "begin": watch.begin, "end": watch.end}


def sft(*, world: int, strategy: str, model: str, files: dict[str, str], **options: Any) -> dict[str, Any]:
    """Three steps of 8 demonstrations, two at a time, and a validation whose batches do not divide evenly."""
    module = SFTModule(
        policy=lambda: load_causal_lm(name=model),
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


def reward(*, world: int, strategy: str, model: str, files: dict[str, str], **options: Any) -> dict[str, Any]:
    """Three steps of 8 prompts with 2 to 4 completions, and the bias."""
    module = RewardModule(
        reward_model=lambda: load_scalar_model(name=model, head="new"),
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
    trainer(strategy, world, watch, max_steps=3).fit(module, data)
    return result(watch) | {"head": whole(module.reward_model.head.weight.detach())}


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


def vowels(prompts: list[str], responses: list[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in response) / 4 for response in responses]


def ppo_module(model: str, *, cls: type[PPOModule] = PPOModule, **options: Any) -> PPOModule:
    settings: dict[str, Any] = {
        "policy": lambda: load_causal_lm(name=model),
        "value": lambda: load_scalar_model(name=model, head="new"),
        "reward": vowels,
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


def ppo(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, Any]:
    """Three iterations of PPO-ptx with two epochs of two minibatches, and a validation."""
    module = ppo_module(model, cls=Reproducible)
    watch = Watch()
    trainer(strategy, world, watch).fit(module, ppo_data(model, files, validation=files["validation"]))
    rollouts = [output["rollout"] for output in watch.outputs]
    return result(watch) | {"responses": [r.responses for r in rollouts], "prompts": [r.prompts for r in rollouts]}


class Crashed(Exception):
    """The end of a process, as far as its run is concerned."""


class Crash(L.Callback):
    """The process dies at the beginning of an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.iteration:
            raise Crashed


def resumable(
    *,
    world: int,
    strategy: str,
    model: str,
    files: dict[str, str],
    folder: str,
    crash: int | None = None,
    resume: bool = False,
    iterations: int = 4,
) -> dict[str, Any]:
    """PPO-ptx that samples as it does, with everything that has a state; from its newest checkpoint with ``resume``."""
    watch = Watch()
    callbacks = [
        IterationCheckpoint(folder=folder, keep_last=9),
        AdaptiveKLController(target=0.01, horizon=40),
        PolicyEMA(decay=0.9),
        watch,
    ]
    module = ppo_module(model)
    torch.manual_seed(99 if resume else 17)  # whatever the process did before must not matter
    with contextlib.suppress(Crashed):
        trainer(strategy, world, *callbacks, *([Crash(crash)] if crash else [])).fit(
            module,
            ppo_data(model, files, iterations=iterations),
            ckpt_path=newest_checkpoint(folder) if resume else None,
            weights_only=True,
        )
    return {
        "begin": watch.begin,
        "last": watch.last,
        "end": getattr(watch, "end", {}),
        "steps": watch.steps,
        "responses": [output["rollout"].responses for output in watch.outputs],
        "prompts": [output["rollout"].prompts for output in watch.outputs],
        "kl_coef": module.kl_coef,
        "stream": None if module.generator is None else module.generator.get_state(),
    }


def staggered(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, Any]:
    """Greedy responses of which rank 0's all end after one token and rank 1's never."""
    found: dict[str, Any] = {}

    class Sample(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            prompts = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1], [11, 12, 13, 1]])
            lengths = torch.tensor([4, 2, 3])
            options: dict[str, Any] = {"pad_token_id": 1, "greedy": True}
            one = [
                generate(
                    pl_module.policy, p[None, :n], n[None], max_new_tokens=1, eos_token_id=-1, **options
                ).response_ids[0, 0]
                for p, n in zip(prompts, lengths, strict=True)
            ]
            # The prompts are the same for every rank; what ends a response is not.
            eos = int(one[0]) if trainer.global_rank == 0 else -1
            row = prompts[:1] if trainer.global_rank == 0 else prompts
            got = generate(pl_module.policy, row, lengths[: len(row)], max_new_tokens=40, eos_token_id=eos, **options)
            found.update(generation=tuple(got), weights=state(pl_module))
            trainer.should_stop = True

    module = SFTModule(policy=lambda: load_causal_lm(name=model), micro_batch_size=2)
    data = DemonstrationDataModule(encoder=Encoder.from_pretrained(model), train=files["demonstrations"], batch_size=8)
    trainer(strategy, world, Sample()).fit(module, data)
    return found


class Memory(L.Callback):
    """Bytes that this process holds for parameters, gradients and optimizer when it takes its last step."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        tensors: dict[str, list[Tensor]] = {"parameters": [*pl_module.parameters()]}
        tensors["gradients"] = [p.grad for p in pl_module.parameters() if p.grad is not None]
        tensors["optimizer"] = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        local = {name: [getattr(t, "_local_tensor", t) for t in held] for name, held in tensors.items()}
        self.bytes = {name: sum(t.numel() * t.element_size() for t in held) for name, held in local.items()}


def memory(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, int]:
    """Bytes of the roles of PPO by kind, and how often this process read weights."""
    held, reads = Memory(), 0

    def counted(read: Any) -> Any:
        def load(*arguments: Any, **options: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(*arguments, **options)

        return load

    kinds = (GPT2LMHeadModel, GPT2ForSequenceClassification)
    with contextlib.ExitStack() as patches:
        for kind in kinds:
            patches.enter_context(mock.patch.object(kind, "from_pretrained", counted(kind.from_pretrained)))
        trainer(strategy, world, held).fit(ppo_module(model), ppo_data(model, files, iterations=2))
    return held.bytes | {"reads": reads}


class Sent(L.Callback):
    """Bytes, whole, of the weights that FSDP2 gathers and of the gradients that it scatters in the second iteration."""

    def __init__(self) -> None:
        self.bytes = {"gathered": 0, "scattered": 0}
        self.patches = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:  # in the first one, heads are checked besides
            # Under their newer names and their older ones.
            for kind, names in (
                ("gathered", ("all_gather_single", "all_gather_into_tensor")),
                ("scattered", ("reduce_scatter_single", "reduce_scatter_tensor")),
            ):
                name = next(name for name in names if hasattr(dist, name))
                self.patches.enter_context(mock.patch.object(dist, name, self._counted(getattr(dist, name), kind)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.patches.close()

    def _counted(self, send: Any, kind: str) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            tensors = [value for value in (*arguments, *options.values()) if torch.is_tensor(value)]
            self.bytes[kind] += max(tensor.nbytes for tensor in tensors)  # the other one is a shard
            return send(*arguments, **options)

        return counted


def traffic(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, int]:
    """What FSDP2 sends in an iteration of PPO-ptx whose responses may have 6 tokens."""
    sent = Sent()
    trainer(strategy, world, sent).fit(ppo_module(model), ppo_data(model, files, iterations=2))
    return dict(sent.bytes)


def cell(
    *,
    world: int,
    strategy: str,
    model: str,
    files: dict[str, str],
    lora: bool = False,
    quantization: Any = None,
    roles: Any = "separate",
    clipping: bool = True,
    optimizer: str = "AdamW",
) -> dict[str, Any]:
    """Two iterations of PPO in a cell of the capability table."""
    adapter = Lora(rank=4, alpha=8.0) if lora else None
    stored = None if quantization is None else Quantization(kind=quantization)
    common: dict[str, Any] = {"name": model, "lora": adapter, "quantization": stored}
    reward: Any = vowels
    if roles == "shared":
        torch.manual_seed(4)
        scalar = load_scalar_model(head="new", **common)
        scalar.head.weight.data.mul_(1.001)  # a head as it was drawn is refused
        folder = Path(f"reward-{quantization}-{os.environ['RANK']}")
        reward = SharedReward(name=str(save_model_folder(scalar, Encoder.from_pretrained(model), folder)))
    optimizers: dict[str, Any] = {"AdamW": None, "Muon": Muon, "adamw8bit": adamw8bit}
    module = ppo_module(
        model,
        policy=lambda: load_causal_lm(**common),
        value=lambda: load_scalar_model(head="new", **common),
        reward=reward,
        roles=roles,
        max_grad_norm=0.5 if clipping else None,
        optimizer=optimizers[optimizer],
    )
    watch = Watch()
    trainer(strategy, world, watch).fit(module, ppo_data(model, files, iterations=2))
    return result(watch)
