"""rlhf-train with several processes: a run, its end by SIGTERM and its going on; a sweep; what is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_lightning import export, train
from rlhf_lightning.callbacks import newest_checkpoint
from rlhf_lightning.modules.checkpoints import read_checkpoint

TRAIN = [sys.executable, "-m", "rlhf_lightning.train"]


@pytest.fixture
def ppo(causal_lm_folders: dict[str, Path], reward_model_folders: dict[str, Path], files: dict[str, str]) -> list[str]:
    return [
        "stage=ppo",
        f"model.name={causal_lm_folders['gpt2']}",
        f"module.reward.name={reward_model_folders['gpt2']}",
        f"data.train={files['prompts']}",
        f"data.text={files['text']}",
        "data.ptx_ratio=1",
        "data.text_block=12",
        "data.rollout_batch_size=8",
        "module.minibatch_size=4",
        "module.max_new_tokens=6",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
    ]


def test_fsdp2_stops_at_sigterm_and_goes_on(ppo: list[str], tmp_path: Path) -> None:
    """On SIGTERM the iteration ends, is saved, and the code asks for another start; resume=auto then goes on, and the
    model folder and that of rlhf-export hold the weights of the last, sharded checkpoint."""
    run = tmp_path / "run"
    arguments = [*ppo, "strategy=fsdp2", "trainer.devices=2", f"run_dir={run}", "callbacks.checkpoint.every=1000"]
    first = subprocess.Popen([*TRAIN, *arguments, "data.iterations=1000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (run / "csv" / "samples.jsonl").is_file() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    errors = first.communicate(timeout=60)[1]
    assert first.returncode == 75, errors[-3000:]
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.is_dir()
    done = int(checkpoint.stem.split("-")[1])
    subprocess.run([*TRAIN, *arguments, "resume=auto", f"data.iterations={done + 1}"], check=True, timeout=100)
    last = newest_checkpoint(run / "checkpoints")
    assert last is not None
    assert int(last.stem.split("-")[1]) == done + 1
    held = read_checkpoint(last)["state_dict"]
    export.export_checkpoint(checkpoint=last, out=tmp_path / "exported")
    folder, exported = (load_file(path / "model.safetensors") for path in (run / "model", tmp_path / "exported"))
    assert folder.keys() == exported.keys()
    for name, weight in folder.items():
        assert torch.equal(weight, exported[name])
        assert torch.equal(weight, held[f"policy.{name}"])


def test_a_sweep_of_two_runs_with_two_processes_makes_two_runs(
    causal_lm_folders: dict[str, Path], files: dict[str, str], tmp_path: Path
) -> None:
    """Each process that Lightning starts would else do the whole sweep again."""
    arguments = [
        "-m",
        "stage=sft",
        f"model.name={causal_lm_folders['gpt2']}",
        f"data.train={files['demonstrations']}",
        "data.batch_size=8",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.max_steps=2",
        "trainer.devices=2",
        "strategy=ddp",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "run_dir=" + f"{tmp_path}/sweep/" + "${hydra:job.num}",
        "module.learning_rate=1e-4,1e-3",
    ]
    run = subprocess.run([*TRAIN, *arguments], check=True, timeout=150, capture_output=True, text=True)
    assert run.stdout.count("finished:") == 2
    runs = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert runs == ["0", "1", "plots"]  # two runs, and the report of the sweep
    runs.remove("plots")
    losses = [(tmp_path / "sweep" / name / "csv" / "metrics.csv").read_text() for name in runs]
    assert all(len(rows.splitlines()) == 3 for rows in losses)  # a head and two steps
    assert losses[0] != losses[1]
    assert not list(tmp_path.glob("**/multirun/**"))


def test_the_other_processes_read_a_users_own_configs(
    causal_lm_folders: dict[str, Path], files: dict[str, str], tmp_path: Path
) -> None:
    """A folder of configs is no override, and each process that Lightning starts needs it as well."""
    for folder, steps in (("named", 2), ("searched", 1)):
        (tmp_path / folder / "experiment").mkdir(parents=True)
        text = f"# @package _global_\ntrainer:\n  max_steps: {steps}\n"
        (tmp_path / folder / "experiment" / f"{folder}.yaml").write_text(text)
    searched = f"hydra.searchpath=[pkg://rlhf_lightning.sweeps,file://{tmp_path}/searched]"
    for own in (["--config-dir", "named", "experiment=named"], [searched, "experiment=searched"]):
        arguments = [
            *own,
            "stage=sft",
            f"model.name={causal_lm_folders['gpt2']}",
            f"data.train={files['demonstrations']}",
            "data.batch_size=8",
            "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false",
            "trainer.devices=2",
            "strategy=ddp",
            f"run_dir={tmp_path}/run-{own[-1].split('=')[1]}",
        ]
        run = subprocess.run([*TRAIN, *arguments], timeout=100, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 0, run.stderr[-3000:]
        assert "finished:" in run.stdout


REFUSED = {
    "strategy=fsdp": "strategy=fsdp2",
    "strategy=deepspeed_2": "strategy=fsdp2",
    "strategy=deepspeed_3": "strategy=fsdp2",
    "model/quantization=int8": "model/lora=default",
    "module.roles=shared": "model/lora=default",
    "strategy=fsdp2 model/lora=default model/quantization=nf4": "strategy=ddp",
    "strategy=fsdp2 optimizer=muon": "optimizer=adamw",
    "strategy=fsdp2 optimizer=adamw8bit": "optimizer=adamw",
}


@pytest.mark.parametrize("choice", REFUSED)
def test_what_cannot_work_is_refused_before_weights_load(
    choice: str, ppo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", load)
    arguments = [*ppo, *choice.split(), "data.iterations=1", "trainer.devices=2", f"run_dir={tmp_path}/run"]
    monkeypatch.setattr(sys, "argv", ["rlhf-train", *arguments])
    begin = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 1
    assert time.monotonic() - begin < 10
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert "is not possible" in line
    assert f"use {REFUSED[choice]}" in line
    assert choice.split()[-1] in line


def test_one_process_is_not_given_shards(
    ppo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "checkpoints" / "iteration-000001.ckpt").mkdir(parents=True)
    monkeypatch.setattr(
        sys, "argv", ["rlhf-train", *ppo, "data.iterations=1", "resume=auto", f"run_dir={tmp_path}/run"]
    )
    with pytest.raises(SystemExit):
        train.main()
    assert "go on with strategy=fsdp2" in capsys.readouterr().err


def test_shards_are_not_made_of_a_whole_checkpoint(
    ppo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning takes the state of the optimizer for that of other weights: an error of shapes, or none at all."""
    checkpoint = tmp_path / "run" / "checkpoints" / "iteration-000001.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({}, checkpoint)
    arguments = [*ppo, "strategy=fsdp2", "data.iterations=1", "resume=auto", f"run_dir={tmp_path}/run"]
    monkeypatch.setattr(sys, "argv", ["rlhf-train", *arguments])
    with pytest.raises(SystemExit):
        train.main()
    assert "go on with strategy=ddp" in capsys.readouterr().err


@pytest.mark.slow
def test_rollouts_that_are_sampled_early_go_on_under_ddp(ppo: list[str], tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    options = ["strategy=ddp", "trainer.devices=2", "rollout.async=true", "data.iterations=3"]
    arguments = [
        *TRAIN,
        *ppo,
        *options,
        "callbacks.checkpoint.every=1",
        "callbacks.checkpoint.keep_last=3",
        "module.learning_rate=1e-3",
    ]
    subprocess.run([*arguments, f"run_dir={whole}"], check=True, timeout=600)
    checkpoint = whole / "checkpoints" / "iteration-000002.ckpt"
    first, second = read_checkpoint(checkpoint)["ppo"]["rollouts"]
    assert not torch.equal(first["response_ids"], second["response_ids"])
    subprocess.run([*arguments, f"run_dir={rest}", f"resume={checkpoint}"], check=True, timeout=600)
    one, other = (load_file(run / "model" / "model.safetensors") for run in (whole, rest))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.slow
def test_rollouts_beside_sharded_updates_are_refused(ppo: list[str], tmp_path: Path) -> None:
    options = [
        "strategy=fsdp2",
        "trainer.devices=2",
        "rollout.async=true",
        "data.iterations=2",
        f"run_dir={tmp_path}/run",
    ]
    run = subprocess.run([*TRAIN, *ppo, *options], capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode != 0
    assert "use strategy=ddp, or set rollout.async=false" in run.stderr
