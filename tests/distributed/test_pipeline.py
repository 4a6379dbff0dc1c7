"""rlhf-pipeline whose stages train with two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rlhf_lightning import pipeline
from rlhf_lightning.callbacks import newest_checkpoint

SMALL = [
    "experiment=quickstart",
    "progress_bar=false",
    "steps.prepare.corpus_documents=40",
    "steps.prepare.corpus_heldout_documents=8",
    "steps.prepare.demonstrations=16",
    "steps.prepare.demonstrations_heldout=8",
    "steps.prepare.reward_prompts=2",
    "steps.prepare.reward_heldout_prompts=2",
    "steps.prepare.ppo_prompts=2",
    "steps.prepare.test_prompts=2",
    "order=[prepare,pretrain,sft]",
    "strategy=ddp",
    "strategy@steps.sft.strategy=fsdp2",
    "trainer.devices=2",
    "trainer.accelerator=cpu",
]


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["rlhf-pipeline", *SMALL, *arguments])
    pipeline.main()


@pytest.mark.slow
def test_stages_train_with_two_processes_each_under_its_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each is one run, which one process writes and tells; a second call keeps it, and an error is the command's."""
    run = f"run_dir='{tmp_path}/a run'"
    start(monkeypatch, run)
    assert capfd.readouterr().out.count("finished:") == 2
    for name, sharded in (("pretrain", False), ("sft", True)):
        (folder,) = (tmp_path / "a run" / "steps").glob(f"{name}-*")
        newest = newest_checkpoint(folder / "checkpoints")
        assert newest is not None
        assert newest.is_dir() == sharded
        assert (folder / "model" / "model.safetensors").is_file()
        rows = (folder / "csv" / "metrics.csv").read_text().splitlines()
        steps = [int(row.split(",")[rows[0].split(",").index("step")]) for row in rows[1:]]
        assert steps == sorted(steps)
        done = json.loads((folder / "step.json").read_text())["metrics"]
        assert done["val/loss"] > 0
        assert done == json.loads((folder / "metrics.json").read_text())
    start(monkeypatch, run)
    assert "finished:" not in capfd.readouterr().out
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, run, "steps.sft.model.attn_implementation=nonsense")
    assert stop.value.code == 1
    first, *_, last = capfd.readouterr().err.splitlines()
    assert first.startswith("rlhf-train: error: ")
    assert "model.attn_implementation" in first
    assert last.startswith("rlhf-pipeline: error: sft-")
    assert "left with code 1" in last


REFUSED = {
    "strategy=fsdp2": "steps.pretrain: strategy=fsdp2 with optimizer=muon is not possible",
    "steps.sft.strategy=fsdp2": "give strategy@steps.sft.strategy=fsdp2",
    "trainer.num_nodes=2": "steps.pretrain.trainer.num_nodes=2",
}


@pytest.mark.parametrize("choice", REFUSED)
def test_what_cannot_work_is_refused_before_the_first_step(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, f"run_dir={tmp_path}/run", choice)
    assert stop.value.code == 1
    assert REFUSED[choice] in capsys.readouterr().err
    assert not (tmp_path / "run" / "steps").exists()
