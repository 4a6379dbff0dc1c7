"""The processes that Lightning starts for a run: which command they get, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only

LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def rank() -> int:
    """This process's number among those of a run, also before they are connected; the one of number 0 writes what a
    run has once."""
    number: int = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it without declaring it
    return number


@contextlib.contextmanager
def processes_of_one_run(run_dir: Path) -> Iterator[None]:
    """Within it, the command line that Lightning gives to the processes that it starts is that of this run alone.

    They would else get this process's own: in a sweep that of the whole sweep, which each of them would do again, and
    with a ``run_dir`` that holds the time, which is another one when they read it. Behind it the environment is as it
    was, so that the next run of a sweep starts processes of its own.
    """
    before, command = {name: os.environ.get(name) for name in LAUNCHER}, sys.argv
    connected = dist.is_available() and dist.is_initialized()
    if HydraConfig.initialized():
        mine = [override for override in HydraConfig.get().overrides.task if not override.startswith("run_dir=")]
        sys.argv = [command[0], *_own_configs(), *mine, f"run_dir={_quoted(run_dir)}"]
    try:
        yield
    finally:
        sys.argv = command
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if dist.is_available() and dist.is_initialized() and not connected:
            dist.destroy_process_group()


@contextlib.contextmanager
def ending_together(trainer: Any) -> Iterator[None]:
    """Within it, SIGTERM to the process that starts the others ends them, too: until training listens to it, they
    would be left behind, waiting for one that is gone."""
    alone = threading.current_thread() is not threading.main_thread()
    if alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and hasattr(launcher, "kill"):
            launcher.kill(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _own_configs() -> list[str]:
    """The arguments by which a user's own configs were found, which are no overrides of the task."""
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    named = [part for folder in folders for part in ("--config-dir", folder)]
    if hydra.job.config_name is not None:
        named += ["--config-name", hydra.job.config_name]
    return [*named, *(override for override in hydra.overrides.hydra if override.startswith("hydra.searchpath="))]


def _quoted(path: Path) -> str:
    """A path as Hydra reads it back, whatever it holds."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
