"""Jobs of submitit: what SLURM is asked for, and a job of this machine that is told to end and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from rlhf_lightning.callbacks import newest_checkpoint
from rlhf_lightning.separate_run import check_job

submitit = pytest.importorskip("submitit", reason="the extra submitit is not installed")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra submitit is not installed")

TRAIN = [sys.executable, "-m", "rlhf_lightning.train"]


def launcher(*overrides: str) -> Any:
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=["hydra/launcher=slurm", *overrides], return_hydra_config=True)
    return config.hydra.launcher


def test_slurm_is_asked_for_what_the_trainer_takes(tmp_path: Path) -> None:
    """The batch file that submitit would give to SLURM."""
    node = launcher("stage=sft", "trainer.devices=8", "trainer.num_nodes=2", f"run_dir={tmp_path}")
    assert node._target_.endswith(".SlurmLauncher")
    assert (node.nodes, node.tasks_per_node, node.gpus_per_node) == (2, 8, 8)
    from submitit.slurm.slurm import _make_sbatch_string

    text = _make_sbatch_string(
        command="true",
        folder=tmp_path,
        time=node.timeout_min,
        nodes=node.nodes,
        ntasks_per_node=node.tasks_per_node,
        gpus_per_node=node.gpus_per_node,
        signal_delay_s=node.signal_delay_s,
        additional_parameters=dict(node.additional_parameters),
    )
    asked = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "signal=USR2@300", "requeue", "time=1440"} <= asked
    assert "srun" in text  # which starts a task for each device


def test_a_job_that_may_come_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    check_job(None)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    check_job("auto")
    with pytest.raises(ValueError, match="resume=auto"):
        check_job(None)


@pytest.fixture
def sft(causal_lm_folders: dict[str, Path], files: dict[str, str], tmp_path: Path) -> list[str]:
    return [
        "-m",
        "hydra/launcher=submitit_local",
        "stage=sft",
        f"model.name={causal_lm_folders['gpt2']}",
        f"data.train={files['demonstrations']}",
        "data.batch_size=8",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.max_epochs=-1",
        f"run_dir={tmp_path}/run",
    ]


def job_of(controller: int) -> int:
    """The process that submitit's controller has started."""
    return int(Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[0])


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_job_that_is_told_to_end_saves_and_comes_back(sft: list[str], tmp_path: Path, devices: int) -> None:
    """By SIGUSR2, as SLURM sends it before the time limit; with two processes the job starts them as a command."""
    arguments = [*sft, "trainer.max_steps=100", "resume=auto"]
    if devices > 1:
        arguments += ["strategy=ddp", f"trainer.devices={devices}"]
    run = subprocess.Popen([*TRAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 100
    while newest_checkpoint(checkpoints) is None and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder,) = [path for path in (tmp_path / "run" / ".submitit").iterdir() if path.name.isdigit()]
    os.kill(job_of(int(folder.name)), signal.SIGUSR2)
    said = run.communicate(timeout=100)[0]
    assert run.returncode == 0, said[-3000:]
    assert newest_checkpoint(checkpoints) == checkpoints / "iteration-000100.ckpt"
    out, err = ("".join(path.read_text() for path in folder.glob(f"*_log.{kind}")) for kind in ("out", "err"))
    assert "Requeued job" in err + out
    assert "a signal to end came: saved iteration" in err + out
    rows = (tmp_path / "run" / "csv" / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[1]) for row in rows[1:]]
    assert steps == sorted(set(steps))
    assert len(steps) >= 99  # Lightning logs a step behind its end, and so not that in which a process leaves
    assert out.count("finished:") == (1 if devices == 1 else 2)  # the command, and the job that waits for it


def test_a_mistake_in_a_job_is_told_by_the_script(sft: list[str], tmp_path: Path) -> None:
    run = subprocess.run([*TRAIN, *sft, "trainer.max_steps=1"], capture_output=True, text=True, timeout=100)
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if "error:" in line]
    assert line.startswith("rlhf-train: error: resume=null")
