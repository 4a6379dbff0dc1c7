"""Runs that stop and go on, for test_survive.py."""

from __future__ import annotations

import contextlib
from typing import Any

import lightning as L
import torch
from stage_runs import ppo_data, ppo_module
from watching import Watch, trainer

from rlhf_lightning.callbacks import AdaptiveKLController, IterationCheckpoint, PolicyEMA, newest_checkpoint


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
    **adapted: Any,
) -> dict[str, Any]:
    """PPO-ptx that samples as it does, with everything that has a state; from its newest checkpoint with ``resume``."""
    watch = Watch()
    callbacks = [
        IterationCheckpoint(folder=folder, keep_last=9),
        AdaptiveKLController(target=0.01, horizon=40),
        PolicyEMA(decay=0.9),
        watch,
    ]
    module = ppo_module(model, adapted=adapted)
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
