"""A PPO run of a few milliseconds an iteration, and a logger that keeps what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from rlhf_lightning.data import Encoder, PromptDataModule
from rlhf_lightning.modules import PPOModule

WORDS = ("cat", "dog", "sun", "rain", "tree", "boat", "a bird", "the old man", "red", "is it big?", "go!", "sea")


class MemoryLogger(DummyLogger):
    """Keeps (step, metrics) in order."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def series(self, name: str) -> list[float]:
        """Every value of one metric."""
        return [metrics[name] for _, metrics in self.rows if name in metrics]


class Recorder(L.Callback):
    """Keeps what each training step returned."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append(outputs)


def count_vowels(prompts: list[str], responses: list[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in response) / 4 for response in responses]


@pytest.fixture
def memory_logger() -> MemoryLogger:
    return MemoryLogger()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def new_recorder() -> Callable[[], Recorder]:
    return Recorder


@pytest.fixture
def new_logger() -> Callable[[], MemoryLogger]:
    return MemoryLogger


@pytest.fixture(scope="session")
def ppo_files(tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., dict[str, str]]) -> dict[str, str]:
    """Prompts (for training and for validation) and pretraining text."""
    folder = tmp_path_factory.mktemp("ppo_files")
    prompts = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
    rows = {
        "prompts": [{"prompt": prompt} for prompt in prompts],
        "validation": [{"prompt": prompt} for prompt in WORDS],
        "text": [{"text": f"{prompt} and {prompt}."} for prompt in prompts],
    }
    return write_rows(folder, rows)


@pytest.fixture
def make_ppo(make_causal_lm: Any, make_scalar_model: Any, encoder: Encoder) -> Callable[..., PPOModule]:
    """A small module; keyword arguments replace its settings."""

    def make(**settings: Any) -> PPOModule:
        defaults: dict[str, Any] = {
            "policy": make_causal_lm,
            "value": make_scalar_model,
            "reward": count_vowels,
            "encoder": encoder,
            "max_new_tokens": 6,
            "minibatch_size": 4,
            "micro_batch_size": 2,
            "ptx_coef": 0.5,
            "learning_rate": 1e-2,
            "value_learning_rate": 1e-2,
        }
        return PPOModule(**defaults | settings)

    return make


@pytest.fixture
def make_data(encoder: Encoder, ppo_files: dict[str, str]) -> Callable[..., PromptDataModule]:
    """8 prompts an iteration; keyword arguments replace its settings."""

    def make(*, text: bool = False, validation: bool = False, **settings: Any) -> PromptDataModule:
        defaults: dict[str, Any] = {
            "encoder": encoder,
            "train": ppo_files["prompts"],
            "validation": ppo_files["validation"] if validation else None,
            "text": ppo_files["text"] if text else None,
            "rollout_batch_size": 8,
            "iterations": 3,
            "ptx_ratio": 1,
            "text_block": 12,
        }
        return PromptDataModule(**defaults | settings)

    return make


@pytest.fixture
def make_trainer(make_trainer: Callable[..., L.Trainer]) -> Callable[..., L.Trainer]:
    """The suite's silent trainer, which logs every step and takes the checkpoints of its callbacks."""

    def make(**settings: Any) -> L.Trainer:
        own = any(isinstance(callback, L.pytorch.callbacks.Checkpoint) for callback in settings.get("callbacks", ()))
        return make_trainer(**{"log_every_n_steps": 1, "enable_checkpointing": own} | settings)

    return make
