"""Pretraining text that is streamed beside the prompts of PPO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from rlhf_lightning.data import Encoder, PromptDataModule


class Recorder(L.LightningModule):
    """Keeps the ids of prompts and text, and stops with a checkpoint."""

    def __init__(self, *, stop_after: int | None = None, path: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_after, self.path = stop_after, path
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((batch["prompts"].input_ids.tolist(), batch["text"].input_ids.tolist()))
        return self.weight.sum()

    def on_train_batch_end(self, *_: Any) -> None:
        if len(self.seen) == self.stop_after:
            self.trainer.save_checkpoint(str(self.path))
            self.trainer.should_stop = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_prompts_and_streamed_text_continue_together(
    make_trainer: Callable[..., L.Trainer],
    letters: Path,
    write: Callable[..., Path],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    one, two = write("a.jsonl", {"text": "a b c d e"}, {"text": "f"}), write("b.jsonl", {"text": "g h i j"})

    def fit(module: Recorder, *, ckpt_path: Path | None = None) -> list[Any]:
        data = PromptDataModule(
            encoder=encoder,
            train=letters,
            text=[{"path": one, "weight": 2}, {"path": two}],
            rollout_batch_size=2,
            iterations=7,
            ptx_ratio=2,
            text_block=3,
            text_streaming=True,
            text_shuffle_buffer=6,
        )
        make_trainer().fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module.seen

    whole = fit(Recorder())
    assert [len(text) for _, text in whole] == [4] * 7
    assert len({str(text) for _, text in whole}) > 3
    path = tmp_path / "stopped.ckpt"
    first = fit(Recorder(stop_after=3, path=path))
    second = fit(Recorder(), ckpt_path=path)
    assert first + second == whole
