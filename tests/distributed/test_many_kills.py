"""A run of two processes that is killed twenty times ends as one that never was."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlhf_lightning.callbacks import newest_checkpoint
from rlhf_lightning.data import Encoder
from rlhf_lightning.models import load_causal_lm, load_scalar_model, save_model_folder
from rlhf_lightning.modules.checkpoints import read_checkpoint
from rlhf_lightning.sandbox import prepare_sandbox

KILLS = 20


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_twenty_kills_change_nothing(strategy: str, tmp_path: Path) -> None:
    """PPO-ptx on the world of the quickstart; each start goes on from a complete checkpoint."""
    world = tmp_path / "world"
    prepare_sandbox(world, corpus_documents=300, demonstrations=50, reward_prompts=50, ppo_prompts=200)
    encoder = Encoder.from_pretrained(str(world / "base"))
    save_model_folder(load_causal_lm(name=str(world / "base"), init="random"), encoder, tmp_path / "policy")
    scalar = load_scalar_model(name=str(tmp_path / "policy"), head="new")
    scalar.head.weight.data.mul_(1.001)  # a head as it was drawn is refused
    save_model_folder(scalar, encoder, tmp_path / "reward")

    def start(run: Path) -> subprocess.Popen[bytes]:
        arguments = [
            "stage=ppo",
            f"model.name={tmp_path}/policy",
            f"module.reward.name={tmp_path}/reward",
            f"data.train={world}/prompts_ppo.jsonl",
            f"data.text={world}/corpus_train.jsonl",
            "data.ptx_ratio=1",
            "data.text_block=32",
            "data.rollout_batch_size=8",
            "data.iterations=60",
            "module.minibatch_size=4",
            "module.max_new_tokens=8",
            "callbacks=[ppo,policy_ema]",
            "logger=[csv]",
            f"strategy={strategy}",
            "trainer.devices=2",
            "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false",
            f"run_dir={run}",
            "resume=auto",
        ]
        command = [sys.executable, "-m", "rlhf_lightning.train", *arguments]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight).wait(timeout=600) == 0
    moments, begun, done = random.Random(0), [], -1
    for _ in range(KILLS):
        process = start(killed)
        # Once the first checkpoint of this start is there, the moment is anyone's guess.
        while process.poll() is None and _newest(killed) == done:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.0, 1.0))
        assert process.poll() is None, "the run ended before all kills: give it more iterations"
        os.killpg(process.pid, signal.SIGKILL)  # both processes, which have a session of their own
        process.wait()
        done = _newest(killed)
        begun.append(done)
        newest = newest_checkpoint(killed / "checkpoints")
        assert newest is not None
        read_checkpoint(newest)  # complete: it can be read
    assert begun == sorted(begun)
    assert start(killed).wait(timeout=600) == 0
    rows = [list(csv.DictReader((run / "csv" / "metrics.csv").open())) for run in (straight, killed)]
    assert rows[0][-1] == rows[1][-1]
    one, other = (load_file(run / "model" / "model.safetensors") for run in (straight, killed))
    assert all((one[name] == other[name]).all() for name in one)


def _newest(run: Path) -> int:
    path = newest_checkpoint(run / "checkpoints")
    return -1 if path is None else int(path.stem.split("-")[1])
