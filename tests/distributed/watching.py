"""A trainer whose run leaves its metrics, weights and moments behind, for the processes of test_*.py."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor

from rlhf_lightning.models import whole


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
