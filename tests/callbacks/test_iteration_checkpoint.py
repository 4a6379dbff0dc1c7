from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rlhf_lightning.callbacks import IterationCheckpoint, newest_checkpoint
from rlhf_lightning.data import DemonstrationDataModule
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import SFTModule


class Crashed(Exception):
    pass


class Crash(L.Callback):
    """The process dies when the iteration after ``last`` begins."""

    def __init__(self, last: int) -> None:
        self.last = last

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx + 1 > self.last:
            raise Crashed


class Draws(L.LightningModule):
    """Draws from every global generator; three optimizer steps an iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = torch.nn.Linear(1, 1)
        self.drawn: list[tuple[float, float, float]] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.drawn.append((random.random(), float(np.random.rand()), torch.rand(()).item()))
        for _ in range(3):
            self.optimizers().step()  # type: ignore[union-attr]  # one optimizer, where Lightning allows lists


def batches(number: int) -> DataLoader[Any]:
    return DataLoader(torch.zeros(number, 1))  # type: ignore[arg-type]  # a tensor serves as a dataset


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("every", "keep_last", "expected"),
    [
        (1, 2, [6, 7]),
        (2, 9, [2, 4, 6, 7]),
        (3, 1, [7]),
        (100, 2, [7]),
    ],
)
def test_whole_iterations_are_counted_and_the_last_one_is_always_saved(
    make_trainer: Any, tmp_path: Path, every: int, keep_last: int, expected: list[int]
) -> None:
    folder = tmp_path / "c"
    make_trainer(callbacks=[IterationCheckpoint(folder=folder, every=every, keep_last=keep_last)]).fit(
        Draws(), batches(7)
    )
    assert names(folder) == [f"iteration-{number:06d}.ckpt" for number in expected]


def test_count_goes_on_over_epochs_and_every_epoch_is_saved_at_its_end(make_trainer: Any, tmp_path: Path) -> None:
    checkpoints = IterationCheckpoint(folder=tmp_path / "c", every=2, keep_last=9)
    make_trainer(callbacks=[checkpoints], max_epochs=2).fit(Draws(), batches(3))
    assert names(tmp_path / "c") == [f"iteration-{number:06d}.ckpt" for number in (2, 3, 4, 6)]


def test_run_that_ends_by_max_steps_is_saved(make_trainer: Any, tmp_path: Path) -> None:
    make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c", every=5)], max_steps=6).fit(Draws(), batches(7))
    assert names(tmp_path / "c") == ["iteration-000002.ckpt"]


class ConstantRate(SFTModule):
    """Without the question for the number of steps, which makes Lightning build the loaders too early to place them."""

    def configure_optimizers(self) -> Any:
        # The policy is set in configure_model.
        optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.learning_rate)  # type: ignore[union-attr]
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)]

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch, batch.loss_mask.sum())
        self.manual_backward(loss)
        optimizer.step()
        # One scheduler, where Lightning allows lists and schedulers that want a metric.
        self.lr_schedulers().step()  # type: ignore[union-attr,call-arg]
        self.log("train/loss", loss)
        return {"loss": loss}


@pytest.mark.parametrize("max_steps", [-1, 6])
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("module_type", [ConstantRate, SFTModule])
def test_run_resumed_after_every_iteration_equals_the_uninterrupted_run(
    make_causal_lm: Any,
    make_trainer: Any,
    new_logger: Any,
    encoder: Any,
    tmp_path: Path,
    module_type: type[SFTModule],
    max_steps: int,
    validate: bool,
) -> None:
    """Two epochs of three batches; every run but the first is resumed from a checkpoint that a resumed run wrote."""
    file = tmp_path / "demonstrations.jsonl"
    file.write_text("".join(f'{{"prompt": "{letter}", "response": "{letter}!"}}\n' for letter in "abcdef"))

    def run(folder: str, ckpt_path: Path | None, last: int = 6) -> tuple[dict[str, torch.Tensor], list[Any]]:
        logger, module = new_logger(), module_type(policy=make_causal_lm, learning_rate=1e-3)
        trainer = make_trainer(
            callbacks=[IterationCheckpoint(folder=tmp_path / folder, keep_last=1), Crash(last)],
            logger=logger,
            max_epochs=2,
            max_steps=max_steps,
            num_sanity_val_steps=0,
        )
        data = DemonstrationDataModule(
            encoder=encoder, train=str(file), validation=str(file) if validate else None, batch_size=2
        )
        with contextlib.suppress(Crashed):
            trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module.state_dict(), [row for row in logger.rows if "train/loss" in row[1]]

    straight, expected = run("straight", None)
    assert [(step, metrics["epoch"]) for step, metrics in expected] == [(n, n // 3) for n in range(6)]
    rows: list[Any] = []
    for number in range(6):
        weights, logged = run("chain", newest_checkpoint(tmp_path / "chain"), last=number + 1)
        rows += logged
        assert names(tmp_path / "chain") == [f"iteration-{number + 1:06d}.ckpt"]
    assert rows == expected
    assert all(torch.equal(weights[name], straight[name]) for name in straight)


def test_global_generators_go_on_where_they_were(make_trainer: Any, tmp_path: Path) -> None:
    def seed(number: int) -> None:
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    seed(3)
    straight = Draws()
    make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "a", keep_last=9)]).fit(straight, batches(4))
    seed(8)
    resumed = Draws()
    make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "b")]).fit(
        resumed, batches(4), ckpt_path=tmp_path / "a" / "iteration-000002.ckpt", weights_only=True
    )
    assert len(set(straight.drawn)) == 4
    assert resumed.drawn == straight.drawn[2:]


def test_newest_checkpoint_looks_at_complete_ones_alone(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing") is None
    assert newest_checkpoint(tmp_path) is None
    for name in (
        ".iteration-000012.ckpt.partial",
        "iteration-000013.ckpt.partial",
        "iteration-000014.ckpt.tmp",
        "iteration-15.ckpt",
        "last.ckpt",
        "epoch=3-step=99.ckpt",
    ):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path) is None
    for number in (9, 10, 1_000_000):
        (tmp_path / f"iteration-{number:06d}.ckpt").touch()
        assert newest_checkpoint(str(tmp_path)) == tmp_path / f"iteration-{number:06d}.ckpt"


def test_checkpoints_of_a_later_iteration_are_not_run_over(make_trainer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    make_trainer(callbacks=[IterationCheckpoint(folder=folder)]).fit(Draws(), batches(3))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for ckpt_path, start in ((None, 0), (folder / "iteration-000002.ckpt", 2)):
        with pytest.raises(
            UserError, match=f"iteration-000003.ckpt is later than iteration {start}, where this run begins: resume"
        ):
            make_trainer(callbacks=[IterationCheckpoint(folder=folder)]).fit(Draws(), batches(3), ckpt_path=ckpt_path)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_partial_files_of_its_own_are_cleared_away_and_others_left(make_trainer: Any, tmp_path: Path) -> None:
    (tmp_path / ".iteration-000009.ckpt.partial").touch()
    (tmp_path / "notes.txt").touch()
    make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path)]).fit(Draws(), batches(1))
    assert [name for name in names(tmp_path) if name != "lightning_logs"] == ["iteration-000001.ckpt", "notes.txt"]


def test_file_is_complete_before_older_ones_go(
    make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rlhf_lightning.callbacks.iteration_checkpoint as module

    folder, moves = tmp_path / "c", []

    def replace(source: Path, target: Path) -> None:
        torch.load(source, weights_only=True)
        moves.append((source.parent == target.parent, target.name, sorted(p.name for p in folder.glob("iteration-*"))))
        source.rename(target)

    monkeypatch.setattr(module.os, "replace", replace)
    make_trainer(callbacks=[IterationCheckpoint(folder=folder, keep_last=1)]).fit(Draws(), batches(2))
    assert moves == [
        (True, "iteration-000001.ckpt", []),
        (True, "iteration-000002.ckpt", ["iteration-000001.ckpt"]),
    ]


def test_lightning_adds_no_checkpoints_of_its_own_and_runs_this_one_last(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c"), L.Callback()])
    assert [type(callback).__name__ for callback in trainer.callbacks] == ["Callback", "IterationCheckpoint"]


def test_fast_dev_run_writes_nothing(make_trainer: Any, tmp_path: Path) -> None:
    make_trainer(callbacks=[IterationCheckpoint(folder=tmp_path / "c")], fast_dev_run=True).fit(Draws(), batches(1))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["every", "keep_last"])
def test_values_are_checked(name: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.checkpoint.{name}=0 must be at least 1"):
        IterationCheckpoint(folder="c", **{name: 0})
