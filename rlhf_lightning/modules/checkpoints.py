"""Names of a run's checkpoints. They hold no ``=``, which Hydra would read as an override."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

REQUEUE = os.EX_TEMPFAIL
"""The code, 75, with which a process leaves that was told to end and wants to be started again."""

NAME = re.compile(r"iteration-(\d{6,})\.ckpt")


def checkpoint_name(iteration: int) -> str:
    """File name of the checkpoint after so many training batches (of PPO: iterations)."""
    return f"iteration-{iteration:06d}.ckpt"


def complete_checkpoints(folder: str | Path) -> dict[int, Path]:
    """Complete checkpoints of a folder by iteration. A file gets such a name only when it is complete, so what an
    interrupted save left behind is not among them."""
    folder = Path(folder)
    matches = ((NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return {int(match[1]): path for match, path in matches if match is not None}


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The complete checkpoint of the latest iteration in ``folder``, or ``None``."""
    found = complete_checkpoints(folder)
    return found[max(found)] if found else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint on the CPU of one process: a file, or the shards of a folder put together."""
    path = Path(path)
    if path.is_file():
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return found
    rest: dict[str, Any] = torch.load(
        path / "meta.pt", map_location="cpu", weights_only=True
    )  # Lightning's name for it
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        together = Path(folder) / "whole.pt"
        dcp_to_torch_save(path, together)
        rest |= torch.load(together, map_location="cpu", weights_only=True)
    return rest
