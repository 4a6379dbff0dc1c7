"""A run that is killed at any moment leaves its last complete checkpoint loadable."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.callbacks import newest_checkpoint


class Runs:
    """Starts runs in a process that has imported everything."""

    def __init__(self, model: Path, prompts: str, temporary: Path) -> None:
        script = Path(__file__).with_name("killed_run.py")
        self.server = subprocess.Popen(
            [sys.executable, str(script), str(model), prompts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(temporary)},  # Lightning's saves that are killed leave files there
        )

    def start(self, folder: Path, iterations: int) -> int:
        assert self.server.stdin is not None
        self.server.stdin.write(f"{folder} {iterations}\n")
        self.server.stdin.flush()
        return self._read()

    def wait(self) -> int:
        return self._read()

    def _read(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@pytest.fixture
def runs(causal_lm_folders: dict[str, Path], ppo_files: dict[str, str], tmp_path: Path) -> Iterator[Runs]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    started = Runs(causal_lm_folders["llama"], ppo_files["prompts"], temporary)
    yield started
    started.server.stdin.close()  # type: ignore[union-attr]  # it was opened as a pipe
    started.server.wait(30)


def iteration_of(path: Path | None) -> int:
    return 0 if path is None else int(path.stem.removeprefix("iteration-"))


def wait_for_iteration(folder: Path, iteration: int) -> None:
    deadline = time.monotonic() + 60
    while iteration_of(newest_checkpoint(folder)) < iteration:
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.002)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_run_leaves_its_last_complete_checkpoint(runs: Runs, tmp_path: Path, kills: int) -> None:
    folder, chance = tmp_path / "checkpoints", random.Random(kills)
    reached = 0
    for _ in range(kills):
        pid = runs.start(folder, 10_000)
        wait_for_iteration(folder, reached + 1)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(pid, signal.SIGKILL)
        assert runs.wait() == -signal.SIGKILL
        newest = newest_checkpoint(folder)
        assert newest is not None
        checkpoint = torch.load(newest, weights_only=True)
        assert iteration_of(newest) > reached
        reached = checkpoint["ppo"]["iterations"]
        assert reached == iteration_of(newest)
        assert bool((checkpoint["ballast"] == reached).all())
    # The survivor goes on to the end, and clears away what was left half written.
    runs.start(folder, reached + 2)
    assert runs.wait() == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        f"iteration-{number:06d}.ckpt" for number in (reached + 1, reached + 2)
    ]


def test_save_that_dies_halfway_is_not_picked_up(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    from rlhf_lightning.callbacks import IterationCheckpoint

    class DiesHalfway(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path, storage_options)
            if checkpoint["ppo"]["iterations"] == 3:
                content = Path(path).read_bytes()
                Path(path).write_bytes(content[: len(content) // 2])
                raise RuntimeError("no space left")

    folder = tmp_path / "checkpoints"
    trainer = make_trainer(callbacks=[IterationCheckpoint(folder=folder)], plugins=[DiesHalfway()])
    with pytest.raises(RuntimeError, match="no space left"):
        trainer.fit(make_ppo(), make_data(iterations=4))
    assert len(list(folder.iterdir())) == 3  # 1 and 2, none removed for the sake of 3, and the half one
    assert newest_checkpoint(folder) == folder / "iteration-000002.ckpt"
    assert torch.load(folder / "iteration-000002.ckpt", weights_only=True)["ppo"]["iterations"] == 2

    resumed = make_trainer(callbacks=[IterationCheckpoint(folder=folder)])
    resumed.fit(make_ppo(), make_data(iterations=4), ckpt_path=newest_checkpoint(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["iteration-000003.ckpt", "iteration-000004.ckpt"]
