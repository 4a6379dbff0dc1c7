"""Which checkpoints are kept, and the one that is made when the process is asked to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from rlhf_lightning.callbacks import IterationCheckpoint, newest_checkpoint
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.checkpoints import complete_checkpoints

VALUES = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0]


class Logs(L.LightningModule):
    """Logs the given values, one a batch."""

    def __init__(
        self, values: list[float], *, told: int | None = None, number: signal.Signals = signal.SIGTERM
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = torch.nn.Linear(1, 1)
        self.values, self.told, self.seen = values, told, 0
        self.number = number

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", self.values[batch_idx])
        self.seen = batch_idx + 1
        if self.seen == self.told:
            os.kill(os.getpid(), self.number)


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


def test_a_value_that_is_no_number_is_never_the_best(make_trainer: Any, tmp_path: Path) -> None:
    nan = float("nan")
    for mode, best in (("min", 4), ("max", 2)):
        checkpoint = IterationCheckpoint(folder=tmp_path / mode, keep_last=1, monitor="score", mode=mode)  # type: ignore[arg-type]
        make_trainer(callbacks=[checkpoint]).fit(Logs([nan, 4.0, nan, 1.0, 2.0, nan]), batches())
        assert kept(tmp_path / mode) == [best, 6]


class Validates(Logs):
    """Logs the value of the last batch when it is validated."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", self.values[self.seen - 1])


def test_the_best_by_a_metric_of_validation_are_known_from_the_first_validation_on(
    make_trainer: Any, tmp_path: Path
) -> None:
    """A validation comes after the checkpoint of its iteration, so the next one has its value."""
    options: dict[str, Any] = {"val_check_interval": 2, "limit_val_batches": 1}
    checkpoint = IterationCheckpoint(folder=tmp_path / "c", keep_last=1, monitor="val/score", mode="max")
    make_trainer(callbacks=[checkpoint], **options).fit(Validates(VALUES), batches(), batches(1))
    assert checkpoint.values == {3: 1.0, 4: 1.0, 5: 1.5, 6: 1.5}
    assert kept(tmp_path / "c") == [5, 6]
    unknown = IterationCheckpoint(folder=tmp_path / "d", monitor="val/reward")
    with pytest.raises(UserError, match=r"monitor=val/reward is not logged; there are: score, val/score"):
        make_trainer(callbacks=[unknown], **options).fit(Validates(VALUES), batches(), batches(1))


def test_a_folder_that_is_half_removed_is_no_checkpoint(
    make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def kill(path: Path) -> None:
        (path / "shard").unlink()
        raise Killed

    surplus = tmp_path / "c" / "iteration-000000.ckpt"
    surplus.mkdir(parents=True)
    (surplus / "shard").touch()
    monkeypatch.setattr("shutil.rmtree", kill)
    with pytest.raises(Killed):
        make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c", keep_last=1)]).fit(Logs(VALUES), batches())
    monkeypatch.undo()
    assert [*complete_checkpoints(tmp_path / "c")] == [1]
    path = newest_checkpoint(tmp_path / "c")
    trainer = make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c", keep_last=1)])
    trainer.fit(Logs(VALUES), batches(), ckpt_path=path)
    assert kept(tmp_path / "c") == [6]


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


@pytest.fixture
def put_back() -> Iterator[list[int]]:
    """A job of submitit, as far as a process can tell: SIGUSR2 puts it back into the queue, from within the handler."""
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, handler)
    yield seen
    assert signal.getsignal(signal.SIGUSR2) is handler
    signal.signal(signal.SIGUSR2, before)


def test_a_job_is_put_back_behind_the_save(make_trainer: Any, tmp_path: Path, put_back: list[int]) -> None:
    module = Logs(VALUES, told=3, number=signal.SIGUSR2)
    with pytest.raises(SystemExit) as leaving:
        make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c", every=100)]).fit(module, batches())
    assert leaving.value.code == -1
    assert put_back == [signal.SIGUSR2]
    assert kept(tmp_path / "c") == [3]


def test_sigterm_has_a_job_save_and_go_on(make_trainer: Any, tmp_path: Path, put_back: list[int]) -> None:
    """scancel sends it, after which a job must not come back."""
    module = Logs(VALUES, told=3)
    make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c", every=100)]).fit(module, batches())
    assert module.seen == len(VALUES)
    assert put_back == []
    assert kept(tmp_path / "c") == [3, 6]
