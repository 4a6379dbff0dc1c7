from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from rlhf_lightning.callbacks import DataCard
from rlhf_lightning.data import Encoder, TextDataModule


class Nothing(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def train_dataloader(self) -> Any:
        return [torch.zeros(1)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_card_is_there_before_the_first_batch(
    make_trainer: Callable[..., L.Trainer], tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "a b c d"}\n{"text": "e f"}\n')
    data = TextDataModule(encoder=encoder, train=path, block_size=4, batch_size=1)

    class Failing(Nothing):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise KeyError("stop")

    with pytest.raises(KeyError):
        make_trainer(callbacks=[DataCard(folder=tmp_path / "run")]).fit(Failing(), datamodule=data)
    card = json.loads((tmp_path / "run" / "data.json").read_text())
    assert card["sources"]["train"][0]["rows"] == 2
    assert card["counts"] == {"train": {"documents": 2, "tokens": 12}}
    assert card["tokenizer"] == encoder.fingerprint()


def test_a_run_without_a_data_module_has_no_card(make_trainer: Callable[..., L.Trainer], tmp_path: Path) -> None:
    make_trainer(callbacks=[DataCard(folder=tmp_path / "run")]).fit(Nothing())
    assert not (tmp_path / "run").exists()
