"""The plan is told when the data is ready and nothing is loaded yet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from rlhf_lightning.callbacks import RunPlan
from rlhf_lightning.data import DemonstrationDataModule, Encoder
from rlhf_lightning.models import load_causal_lm
from rlhf_lightning.modules import SFTModule


@pytest.fixture
def data(tmp_path: Path, encoder: Encoder) -> DemonstrationDataModule:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "hi", "response": "yes"}\n' * 5)
    return DemonstrationDataModule(encoder=encoder, train=str(file), batch_size=2)


def test_the_plan_comes_before_the_weights(
    data: DemonstrationDataModule,
    causal_lm_folders: dict[str, Path],
    make_trainer: Callable[..., L.Trainer],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "rlhf_lightning.models.loading._load", lambda *arguments: pytest.fail("weights were loaded before the plan")
    )
    policy = functools.partial(load_causal_lm, name=str(causal_lm_folders["llama"]))
    with caplog.at_level(logging.INFO, logger="rlhf_lightning"), pytest.raises(pytest.fail.Exception):
        make_trainer(callbacks=[RunPlan()]).fit(SFTModule(policy=policy), datamodule=data)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("run_plan")]
    assert lines[0] == "plan: 5 rows, 3 optimizer steps, 3 learning-rate steps"
    assert lines[1].startswith("memory: policy: weights ")
    assert lines[2].startswith("memory: at most ")
    assert len(lines) == 3


def test_a_plan_that_cannot_be_made_stops_no_run(
    data: DemonstrationDataModule,
    causal_lm_folders: dict[str, Path],
    make_trainer: Callable[..., L.Trainer],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any) -> None:
        raise AttributeError("no num_attention_heads")

    monkeypatch.setattr("rlhf_lightning.modules.run_plan.memory_plan", broken)
    module = SFTModule(policy=functools.partial(load_causal_lm, name=str(causal_lm_folders["llama"])))
    trainer = make_trainer(callbacks=[RunPlan()])
    with caplog.at_level(logging.INFO, logger="rlhf_lightning"):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == 3
    assert "memory: no estimate (AttributeError: no num_attention_heads)" in caplog.text


def test_a_run_of_a_users_own_models_and_loaders_has_no_plan(
    data: DemonstrationDataModule,
    make_causal_lm: Callable[[str], Any],
    make_trainer: Callable[..., L.Trainer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = SFTModule(policy=lambda: make_causal_lm("llama"))
    data.setup()
    with caplog.at_level(logging.INFO, logger="rlhf_lightning"):
        make_trainer(callbacks=[RunPlan()]).fit(module, data.train_dataloader())
    assert not [record for record in caplog.records if record.name.endswith("run_plan")]
