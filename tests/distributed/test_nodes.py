"""Two "nodes" of one process each, which torchrun starts and which find each other over the network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lightning.callbacks import newest_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_trains_on_two_nodes(
    strategy: str, causal_lm_folders: dict[str, Path], files: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train = [
        "stage=sft",
        f"model.name={causal_lm_folders['gpt2']}",
        f"data.train={files['demonstrations']}",
        "data.batch_size=8",
        f"strategy={strategy}",
        "trainer.num_nodes=2",
        "trainer.devices=1",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.enable_progress_bar=false",
        f"run_dir={tmp_path}/run",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen(
            [*launcher, f"--node-rank={node}", "-m", "rlhf_lightning.train", *train],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    errors = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.name == "iteration-000002.ckpt"
    assert newest.is_dir() == (strategy == "fsdp2")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
