"""Checkpoints of whole iterations, each complete or not there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from rlhf_lightning.callbacks.episodes import iterations_done
from rlhf_lightning.callbacks.random_state import capture_random_state, restore_random_state
from rlhf_lightning.callbacks.resume_point import settle
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.checkpoints import checkpoint_name, complete_checkpoints

PARTIAL = re.compile(r"\.iteration-\d{6,}\.ckpt\.partial")


class IterationCheckpoint(Checkpoint):
    """Saves ``iteration-000003.ckpt`` at the end of every ``every``-th training batch and of the last one.

    An iteration is a training batch, counted over all epochs: under manual optimisation Lightning's step moves
    several times in one. A checkpoint is written under another name and moved into place when it is whole, and older
    ones are removed after that, so a process that is killed at any moment leaves the last whole one.

    Resuming with ``trainer.fit(..., ckpt_path=newest_checkpoint(folder))`` goes on with the next batch, and equals a
    run that was never interrupted bit for bit: beyond what Lightning, the module and the data module save, the
    checkpoint holds the state of the global random generators. A PPO run that has ended goes on when
    ``data.iterations`` is raised. A validation that was due right after the saved iteration and did not finish is not
    made up for.

    Args:
        folder: where to.
        every: iterations from one checkpoint to the next.
        keep_last: how many to keep.
    """

    def __init__(self, *, folder: str | Path, every: int = 1, keep_last: int = 2) -> None:
        for name, count in (("every", every), ("keep_last", keep_last)):
            if count < 1:
                raise UserError(f"callbacks.checkpoint.{name}={count} must be at least 1")
        self.folder = Path(folder)
        self.every = every
        self.keep_last = keep_last
        self._random_state: dict[str, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to run over the checkpoints of another run; go on with the saved randomness."""
        start = iterations_done(trainer)
        found = complete_checkpoints(self.folder)
        if found and max(found) > start:
            raise UserError(
                f"{found[max(found)]} is later than iteration {start}, where this run begins: resume from it with "
                "ckpt_path, or give another folder"
            )
        if trainer.is_global_zero and self.folder.is_dir():
            for path in self.folder.iterdir():
                if PARTIAL.fullmatch(path.name):
                    path.unlink()
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save here and nowhere else: the counters of Lightning's loops then stand behind this batch and before
        everything else. At the end of an epoch that was stopped early they would claim the epoch to be over."""
        stops = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if trainer.is_last_batch or stops or iterations_done(trainer) % self.every == 0:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the global random generators."""
        checkpoint["random_state"] = capture_random_state()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep their state for the start of training: what is set up until then draws from them."""
        self._random_state = checkpoint.get("random_state")
        if trainer.state.fn == "fit":
            settle(checkpoint, trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            return
        for logger in trainer.loggers:
            logger.save()  # what a run that is killed now has logged up to here
        path = self.folder / checkpoint_name(iterations_done(trainer))
        partial = path.with_name(f".{path.name}.partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if not trainer.is_global_zero:
            return
        # Lightning's own save is whole only on one file system, and goes through the system's temporary folder.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        found = complete_checkpoints(self.folder)
        for iteration in sorted(found)[: -self.keep_last]:
            found[iteration].unlink()
