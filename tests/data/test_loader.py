"""Resuming a real Lightning run in the middle of an epoch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data import DistributedSampler

from rlhf_lightning.data import (
    DemonstrationDataModule,
    Encoder,
    PromptDataModule,
    StreamBatchSampler,
    StreamLoader,
)
from rlhf_lightning.data.loader import stream_loader
from rlhf_lightning.errors import UserError

Seen = list[tuple[Any, ...]]


class Recorder(pl.LightningModule):
    """Notes every training batch; ``fail_at`` raises in that training step."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.seen: Seen = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.fail_at:
            raise KeyError
        if isinstance(batch, dict):
            ids = (batch["prompts"].prompts, batch["text"].input_ids.tolist() if "text" in batch else None)
        else:
            ids = (batch.input_ids.tolist(),)
        self.seen.append((self.current_epoch, batch_idx, *ids))
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(
    data: pl.LightningDataModule,
    folder: Path,
    callbacks: Sequence[pl.Callback] = (),
    resume: Path | None = None,
    fail_at: int | None = None,
    **options: Any,
) -> Seen:
    model = Recorder(fail_at)
    trainer = pl.Trainer(
        **{"max_epochs": 3, **options},
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        warnings.filterwarnings("ignore", message=".*many workers.*|.*callbacks used to create|.*across ranks is zero")
        try:
            trainer.fit(model, data, ckpt_path=resume)
        except KeyError:
            assert len(model.seen) == fail_at
    return model.seen


@pytest.fixture
def demonstrations(letters: Path, encoder: Encoder) -> Callable[..., DemonstrationDataModule]:
    """Fresh objects for every run, as in a new process: 4 batches an epoch."""
    return lambda **options: DemonstrationDataModule(
        encoder=encoder, train=letters, validation=letters, batch_size=3, seed=1, **options
    )


def every(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", auto_insert_metric_name=False, **options)


def test_run_goes_on_with_the_very_next_batch_from_any_step(
    demonstrations: Callable[..., DemonstrationDataModule], tmp_path: Path
) -> None:
    straight = fit(demonstrations(), tmp_path, [every(tmp_path / "c", every_n_train_steps=1)])
    assert len(straight) == 12
    assert len({str(batch) for batch in straight}) == 12
    for step in range(1, 13):  # 4 and 8 are the last batches of an epoch
        assert fit(demonstrations(), tmp_path, resume=tmp_path / f"c/{step}.ckpt") == straight[step:], step


@pytest.mark.parametrize(
    ("save", "options", "steps"),
    [
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}, (4, 8)),
        ({"every_n_epochs": 1}, {}, (4, 8)),
        ({"every_n_train_steps": 2}, {"val_check_interval": 2}, (2, 4, 6)),
        ({"every_n_train_steps": 1}, {"limit_train_batches": 2}, (1, 2, 3)),
    ],
)
def test_run_goes_on_after_saves_at_other_moments(
    demonstrations: Callable[..., DemonstrationDataModule],
    tmp_path: Path,
    save: dict[str, Any],
    options: dict[str, Any],
    steps: tuple[int, ...],
) -> None:
    straight = fit(demonstrations(), tmp_path, [every(tmp_path / "c", **save)], **options)
    for step in steps:
        assert fit(demonstrations(), tmp_path, resume=tmp_path / f"c/{step}.ckpt", **options) == straight[step:], step


def test_run_goes_on_after_max_steps(demonstrations: Callable[..., DemonstrationDataModule], tmp_path: Path) -> None:
    straight = fit(demonstrations(), tmp_path)
    save = every(tmp_path / "c", every_n_train_steps=6)
    assert fit(demonstrations(), tmp_path, [save], max_steps=6) == straight[:6]
    assert fit(demonstrations(), tmp_path, resume=tmp_path / "c/6.ckpt") == straight[6:]


def test_interrupted_iteration_is_repeated(
    demonstrations: Callable[..., DemonstrationDataModule], tmp_path: Path
) -> None:
    straight = fit(demonstrations(), tmp_path)
    fit(demonstrations(), tmp_path, [OnExceptionCheckpoint(tmp_path)], fail_at=5)
    assert fit(demonstrations(), tmp_path, resume=tmp_path / "on_exception.ckpt") == straight[5:]


def test_workers_change_nothing(demonstrations: Callable[..., DemonstrationDataModule], tmp_path: Path) -> None:
    straight = fit(demonstrations(), tmp_path, max_epochs=2)
    save = every(tmp_path / "c", every_n_train_steps=2)
    assert fit(demonstrations(num_workers=1), tmp_path, [save], max_epochs=2) == straight
    again = fit(demonstrations(num_workers=1), tmp_path, resume=tmp_path / "c/6.ckpt", max_epochs=2)
    assert again == straight[6:]


def test_prompt_and_text_streams_go_on_together(
    letters: Path, write: Callable[..., Path], encoder: Encoder, tmp_path: Path
) -> None:
    text = write("text.jsonl", *({"text": f"{a} {b} {a}"} for a in "abcdef" for b in "ghij"))

    def data() -> PromptDataModule:
        return PromptDataModule(
            encoder=encoder,
            train=letters,
            text=text,
            rollout_batch_size=4,
            ptx_ratio=2,
            text_block=5,
            iterations=6,
        )

    straight = fit(data(), tmp_path, [every(tmp_path / "c", every_n_train_steps=3)], max_epochs=1)
    assert len(straight) == 6
    assert fit(data(), tmp_path, resume=tmp_path / "c/3.ckpt", max_epochs=1) == straight[3:]


def test_loader_alone_counts_what_it_handed_out(letters: Path, encoder: Encoder) -> None:
    def loader() -> StreamLoader:
        return DemonstrationDataModule(encoder=encoder, train=letters, batch_size=3).train_dataloader()

    whole = [batch.input_ids.tolist() for batch in loader()]
    one = loader()
    batches = iter(one)
    next(batches), next(batches)
    assert one.state_dict() == {"epoch": 0, "batches": 2}
    other = loader()
    other.load_state_dict(one.state_dict())
    assert len(other) == 4
    assert [batch.input_ids.tolist() for batch in other] == whole[2:]
    assert other.state_dict() == {"epoch": 1, "batches": 0}


def test_loaders_leave_the_global_random_state_alone(letters: Path, encoder: Encoder) -> None:
    data = DemonstrationDataModule(encoder=encoder, train=letters, validation=letters)
    data.setup()
    before = torch.get_rng_state()
    list(data.train_dataloader()), list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def trainer_of(rank: int, world_size: int) -> Any:
    progress = SimpleNamespace(current=SimpleNamespace(processed=0))
    return SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )


def test_ranks_share_every_batch(letters: Path, encoder: Encoder) -> None:
    def batches(rank: int | None) -> list[list[int]]:
        data = DemonstrationDataModule(encoder=encoder, train=letters, batch_size=4)
        data.trainer = None if rank is None else trainer_of(rank, 2)
        return [batch.input_ids[:, 1].tolist() for batch in data.train_dataloader()]

    assert [a + b for a, b in zip(batches(0), batches(1), strict=True)] == batches(None)


def test_lightning_is_told_that_rows_are_dealt_to_ranks_already(letters: Path, encoder: Encoder) -> None:
    loader = DemonstrationDataModule(encoder=encoder, train=letters).train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler)
    assert isinstance(loader.sampler, StreamBatchSampler)


def test_batch_size_that_ranks_cannot_share_is_an_error(letters: Path, encoder: Encoder) -> None:
    data = DemonstrationDataModule(encoder=encoder, train=letters, batch_size=3)
    data.trainer = trainer_of(0, 2)
    with pytest.raises(UserError, match="batch size of 3 cannot be shared by 2 processes"):
        data.train_dataloader()


def test_overfit_batches_is_refused_with_the_way_out(
    demonstrations: Callable[..., DemonstrationDataModule], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"overfit_batches=2 .*limit_train_batches"):
        fit(demonstrations(), tmp_path, overfit_batches=2)


def test_validation_order_is_fixed(letters: Path, encoder: Encoder) -> None:
    data = DemonstrationDataModule(encoder=encoder, train=letters, validation=letters, batch_size=3, seed=9)
    loader = data.val_dataloader()
    assert [batch.input_ids[:, 1].tolist() for batch in loader] == [
        [6, 7, 8],
        [9, 10, 11],
        [12, 13, 14],
        [15],
    ]


def test_stream_loader_without_a_trainer_is_one_process(letters: Path, encoder: Encoder) -> None:
    data = DemonstrationDataModule(encoder=encoder, train=letters)
    data.setup()
    loader = stream_loader(data.train_rows, trainer=None, collate=len, batch_size=4)
    assert list(loader) == [4, 4, 2]


class Looking(Recorder):
    """Notes the prompts of every batch and those that it says come next."""

    samples_ahead = True

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        now, ahead = batch["prompts"], batch["prompts"].ahead
        self.seen.append((now.prompts, None if ahead is None else ahead.prompts))
        return self.weight.sum()


def test_a_module_that_looks_ahead_sees_the_next_prompts(letters: Path, encoder: Encoder, tmp_path: Path) -> None:
    def run(**options: Any) -> Seen:
        data = PromptDataModule(encoder=encoder, train=letters, rollout_batch_size=4, iterations=4)
        module, resume = Looking(), options.pop("resume", None)
        settings: Any = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 1}
        settings |= {"enable_model_summary": False, "default_root_dir": tmp_path}
        pl.Trainer(**settings, **options).fit(module, data, ckpt_path=resume)
        return module.seen

    seen = run(callbacks=[every(tmp_path / "c", every_n_train_steps=1)])
    assert [ahead for _, ahead in seen] == [*(now for now, _ in seen[1:]), None]
    assert run(resume=tmp_path / "c/2.ckpt", enable_checkpointing=False) == seen[2:]


class Numbers(list[int]):
    """A table of numbers."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{"number": self[index]} for index in indices]


def test_workers_prepare_the_next_batches_while_one_is_trained_on(tmp_path: Path) -> None:
    def collate(rows: list[dict[str, Any]]) -> int:
        number: int = rows[0]["number"]
        (tmp_path / str(number)).touch()
        return number

    table: Any = Numbers(range(6))
    batches = iter(stream_loader(table, trainer=None, collate=collate, batch_size=1, num_workers=1))
    assert next(batches) == 0
    deadline = time.monotonic() + 30
    while not (tmp_path / "2").exists():  # nothing has asked for it
        assert time.monotonic() < deadline
        time.sleep(0.01)
