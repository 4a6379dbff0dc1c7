"""Names of a run's checkpoints, and whether a file is one. The names hold no ``=``, which Hydra would read as an
override."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from rlhf_lightning.errors import UserError, one_line

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


def check_file(path: Path) -> None:
    """Refuse a file that cannot be a whole checkpoint, without reading it: an archive of which the end is there.

    Raises:
        UserError: it is none; a folder, or nothing, is left to who reads it.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is no checkpoint, or one that was cut off: give another one of that run's checkpoints/"
        )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of Lightning holds, on the CPU of one process: a file, or the shards of a folder together.

    Raises:
        UserError: a file or folder that cannot be read, or holds no module.
    """
    path = Path(path)
    check_file(path)
    try:
        state: Any = _together(path) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, KeyError, OSError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} could not be read ({one_line(error, most=120)}): it is damaged, or no checkpoint of Lightning; "
            "give another one of that run's checkpoints/"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "global_step"} <= state.keys():
        raise UserError(f"{path} holds no state of a module: give a .ckpt file of a run's checkpoints/")
    return state


def _together(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path / "meta.pt", map_location="cpu", weights_only=True)  # Lightning's name
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / "whole.pt"
        dcp_to_torch_save(path, whole)
        state |= torch.load(whole, map_location="cpu", weights_only=True)
    return state
