"""More of what the processes of test_*.py do: what users combine with several processes."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import stage_runs
import torch
from lightning.pytorch.utilities import CombinedLoader
from survival import Crash, Crashed
from torch.utils.data import DataLoader, DistributedSampler
from watching import Watch, result, trainer

from rlhf_lightning.callbacks import IterationCheckpoint, newest_checkpoint
from rlhf_lightning.data import DemonstrationDataModule, Encoder, collate_prompts, collate_tokens
from rlhf_lightning.models import load_causal_lm
from rlhf_lightning.modules import SFTModule


def mixed(*, stage: str, **arguments: Any) -> dict[str, Any]:
    """A stage in bf16-mixed precision."""
    with mock.patch.object(stage_runs, "trainer", partial(trainer, precision="bf16-mixed")):
        found: dict[str, Any] = getattr(stage_runs, stage)(**arguments)
    return found


class Steps(L.Callback):
    """The optimizer steps of each iteration."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.before = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.counts.append(trainer.global_step - self.before)
        self.before = trainer.global_step


def target_kl(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, Any]:
    """PPO whose passes over a rollout end when the policy has moved far; five are the most."""
    module = stage_runs.ppo_module(
        model, cls=stage_runs.Reproducible, target_kl=2.5e-3, epochs=5, learning_rate=1e-3, ptx_coef=0.0
    )
    steps, watch = Steps(), Watch()
    data = stage_runs.ppo_data(model, files, iterations=4, text=None)
    trainer(strategy, world, steps, watch).fit(module, data)
    return result(watch) | {"counts": steps.counts}


class Own(L.LightningDataModule):
    """A user's own loaders, of torch, over rows in memory. That of demonstrations brings a sampler of torch's, that of
    prompts is left to Lightning, which shuffles."""

    def __init__(self, model: str, files: dict[str, str], *, batch_size: int, prompts: bool) -> None:
        super().__init__()
        self.own = Encoder.from_pretrained(model)
        self.files, self.batch_size, self.prompts = files, batch_size, prompts

    def train_dataloader(self) -> Any:
        pad_id, rows = self.own.pad_token_id, []
        for line in Path(self.files["prompts" if self.prompts else "demonstrations"]).read_text().splitlines():
            row = json.loads(line)
            ids = self.own.prompt(row["prompt"])
            response = [] if self.prompts else self.own.response(row["response"])
            rows.append({"input_ids": [*ids, *response], "prompt_length": len(ids), "prompt": row["prompt"]})
        collate: Any = partial(collate_prompts if self.prompts else collate_tokens, pad_id=pad_id)
        dataset: Any = rows[:19]
        sampler: Any = None
        if self.trainer is not None and self.trainer.world_size > 1 and not self.prompts:
            sampler = DistributedSampler(dataset, shuffle=False)
        loader: Any = DataLoader(
            dataset, batch_size=self.batch_size, collate_fn=collate, drop_last=self.prompts, sampler=sampler
        )
        return CombinedLoader({"prompts": loader}, "min_size") if self.prompts else loader


def own_data(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, Any]:
    """SFT and PPO on loaders that are none of this package's."""
    watch, rollouts = Watch(), Watch()
    sft = SFTModule(policy=lambda: load_causal_lm(name=model), learning_rate=3e-4, micro_batch_size=2)
    size = 8 // world
    trainer(strategy, world, watch, max_steps=2).fit(sft, Own(model, files, batch_size=size, prompts=False))
    ppo = stage_runs.ppo_module(model, cls=stage_runs.Reproducible, ptx_coef=0.0)
    trainer(strategy, world, rollouts).fit(ppo, Own(model, files, batch_size=size, prompts=True))
    prompts = [output["rollout"].prompts for output in rollouts.outputs]
    return result(watch) | {"prompts": prompts, "ppo": rollouts.end}


class LonelyStop(L.Callback):
    """One process wants to stop after its second batch, or at the first validation."""

    def __init__(self, rank: int, hook: str) -> None:
        self.rank, self.hook, self.batches = rank, hook, 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.batches += 1
        if self.hook == "batch" and self.batches == 2 and trainer.global_rank == self.rank:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        if self.hook == "validation" and trainer.global_rank == self.rank:
            trainer.should_stop = True


def lonely_stop(
    *, world: int, strategy: str, model: str, files: dict[str, str], folder: str, hook: str
) -> dict[str, Any]:
    """SFT that a callback stops in one process only."""
    stop = LonelyStop(world - 1, hook)
    module = SFTModule(policy=lambda: load_causal_lm(name=model), micro_batch_size=4)
    data = DemonstrationDataModule(
        encoder=Encoder.from_pretrained(model),
        train=files["demonstrations"],
        validation=files["held_out"],
        batch_size=8,
    )
    callbacks = [stop, IterationCheckpoint(folder=folder, every=100)]
    trainer(strategy, world, *callbacks, val_check_interval=3).fit(module, data)
    return {"batches": stop.batches, "saved": newest_checkpoint(folder)}


class Dropped(L.Callback):
    """What the first dropout of every pass leaves out of its first row's first tokens."""

    def __init__(self) -> None:
        self.masks: list[torch.Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        dropout = next(part for part in pl_module.policy.modules() if isinstance(part, torch.nn.Dropout))
        dropout.register_forward_hook(self._note)

    def _note(self, dropout: Any, _: Any, output: torch.Tensor) -> None:
        if dropout.training:
            self.masks.append(output[0, :3].detach() == 0)


def dropout(
    *,
    world: int,
    strategy: str,
    model: str,
    files: dict[str, str],
    folder: str,
    crash: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """SFT with dropout, under one seed for all processes, as rlhf-train sets it."""
    L.seed_everything(99 if resume else 17, verbose=False)  # whatever a process did before must not matter
    dropped, watch = Dropped(), Watch()
    module = SFTModule(policy=lambda: load_causal_lm(name=model, dropout=0.3), learning_rate=1e-3, micro_batch_size=2)
    data = DemonstrationDataModule(encoder=Encoder.from_pretrained(model), train=files["demonstrations"], batch_size=8)
    callbacks = [dropped, watch, IterationCheckpoint(folder=folder), *([Crash(crash)] if crash else [])]
    with contextlib.suppress(Crashed):
        trainer(strategy, world, *callbacks).fit(
            module, data, ckpt_path=newest_checkpoint(Path(folder)) if resume else None, weights_only=True
        )
    return {"masks": dropped.masks, "last": watch.last}
