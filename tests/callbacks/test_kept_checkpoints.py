"""Which checkpoints are kept, and the one that is made when the process is asked to end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from rlhf_lightning.callbacks import IterationCheckpoint, newest_checkpoint
from rlhf_lightning.errors import UserError

VALUES = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0]


class Logs(L.LightningModule):
    """Logs the given values, one a batch."""

    def __init__(self, values: list[float], *, told: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = torch.nn.Linear(1, 1)
        self.values, self.told, self.seen = values, told, 0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", self.values[batch_idx])
        self.seen = batch_idx + 1
        if self.seen == self.told:
            os.kill(os.getpid(), signal.SIGTERM)


def batches(number: int = len(VALUES)) -> DataLoader[Any]:
    return DataLoader(torch.zeros(number, 1))  # type: ignore[arg-type]  # a tensor serves as a dataset


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"monitor": "score", "mode": "max"}, [5, 6]),
        ({"monitor": "score", "mode": "min"}, [2, 6]),
        ({"monitor": "score", "mode": "min", "keep_best": 2}, [2, 4, 6]),
        ({}, [6]),
    ],
)
def test_the_best_are_kept_beside_the_last(
    make_trainer: Any, tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    checkpoint = IterationCheckpoint(folder=tmp_path / "c", keep_last=1, **options)
    make_trainer(callbacks=[checkpoint]).fit(Logs(VALUES), batches())
    assert kept(tmp_path / "c") == expected


def test_a_resumed_run_remembers_the_best(make_trainer: Any, tmp_path: Path) -> None:
    def fit(values: list[float], number: int, ckpt_path: Path | None = None) -> None:
        checkpoint = IterationCheckpoint(folder=tmp_path / "c", keep_last=1, monitor="score", mode="max")
        make_trainer(callbacks=[checkpoint], max_epochs=2).fit(Logs(values), batches(number), ckpt_path=ckpt_path)

    trainer = make_trainer(
        callbacks=[IterationCheckpoint(folder=tmp_path / "c", keep_last=1, monitor="score", mode="max")], max_epochs=1
    )
    trainer.fit(Logs([1.0, 8.0, 2.0]), batches(3))
    fit([3.0, 4.0, 5.0], 3, newest_checkpoint(tmp_path / "c"))
    assert kept(tmp_path / "c") == [2, 6]


def test_a_metric_that_nothing_logs_is_an_error(make_trainer: Any, tmp_path: Path) -> None:
    checkpoint = IterationCheckpoint(folder=tmp_path / "c", monitor="reward")
    with pytest.raises(UserError, match=r"monitor=reward is not logged; there are: score"):
        make_trainer(callbacks=[checkpoint]).fit(Logs(VALUES), batches())
    with pytest.raises(UserError, match=r"callbacks.checkpoint.mode='best'"):
        IterationCheckpoint(folder=tmp_path, mode="best")  # type: ignore[arg-type]  # wrong on purpose


def test_sigterm_ends_the_iteration_saves_it_and_asks_for_another_start(make_trainer: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    module = Logs(VALUES, told=3)
    with pytest.raises(SystemExit) as leaving:
        make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c", every=100)]).fit(module, batches())
    assert leaving.value.code == 75
    assert module.seen == 3
    assert kept(tmp_path / "c") == [3]
    assert signal.getsignal(signal.SIGTERM) == before
