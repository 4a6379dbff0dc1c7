"""Names of a run's checkpoints. They hold no ``=``, which Hydra would read as an override."""

from __future__ import annotations

from pathlib import Path


def checkpoint_name(iteration: int) -> str:
    """File name of the checkpoint after so many training batches (of PPO: iterations)."""
    return f"iteration-{iteration:06d}.ckpt"


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint of a folder, or ``None``. Files are moved to their final name only when they
    are complete, so whatever has such a name is."""
    return max(Path(folder).glob("iteration-*.ckpt"), default=None)
