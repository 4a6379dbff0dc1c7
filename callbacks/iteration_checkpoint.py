"""Checkpoints of whole iterations, each complete or not there."""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from rlhf_lightning.callbacks.episodes import iterations_done
from rlhf_lightning.callbacks.preemption import Notice, Preemption
from rlhf_lightning.callbacks.random_state import capture_random_state, restore_random_state
from rlhf_lightning.callbacks.resume_point import settle
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import World
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

    With sharded weights a checkpoint is a folder to which every process writes its part; any number of processes with
    sharded weights can go on from it, as any number of replicas can from a file. Weights, optimizer, schedule and the
    order of data are then exact; the random streams of a process that is new begin anew.

    On SIGTERM (a machine is taken away, a time limit comes near) the iteration is brought to its end, saved, and the
    process leaves with code 75, which asks to be started again. A job of submitit hears SIGUSR2 instead, and puts
    itself back into the queue behind the save; SIGTERM has it save and go on.

    Args:
        folder: where to.
        every: iterations from one checkpoint to the next.
        keep_last: how many to keep.
        monitor: a metric by which the ``keep_best`` best checkpoints are kept beside them; ``None``: none. One of
            validation is that of the last validation before the checkpoint; before the first, none is among the best.
            NaN is worse than any number.
        mode: whether a smaller (``min``) or a larger (``max``) value of it is better.
        keep_best: how many.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        every: int = 1,
        keep_last: int = 2,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        keep_best: int = 1,
    ) -> None:
        for name, count in (("every", every), ("keep_last", keep_last), ("keep_best", keep_best)):
            if count < 1:
                raise UserError(f"callbacks.checkpoint.{name}={count} must be at least 1")
        if mode not in ("min", "max"):
            raise UserError(f"callbacks.checkpoint.mode={mode!r} is neither 'min' nor 'max'")
        self.folder = Path(folder)
        self.every = every
        self.keep_last = keep_last
        self.monitor = monitor
        self.mode = mode
        self.keep_best = keep_best
        self.values: dict[int, float] = {}
        self._validated = False
        self._random_states: list[dict[str, Any]] = []
        self._preemption = Preemption()

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
                    _remove(path)
        if trainer.global_rank < len(self._random_states):
            restore_random_state(self._random_states[trainer.global_rank])
        self._random_states = []
        self._preemption.listen()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on every metric is known."""
        self._validated = not trainer.sanity_checking

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save here and nowhere else: the counters of Lightning's loops then stand behind this batch and before
        everything else. At the end of an epoch that was stopped early they would claim the epoch to be over."""
        world = World.of(trainer)
        notice = self._preemption.of_any_rank(world)
        stops = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if notice or trainer.is_last_batch or stops or iterations_done(trainer) % self.every == 0:
            self._save(trainer)
        if notice:
            does = "leaving, to be started again" if notice is Notice.LEAVE else "going on"
            rank_zero_warn(f"a signal to end came: saved iteration {iterations_done(trainer)}; {does}")
        if notice is Notice.LEAVE:
            self._preemption.leave(world)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave signals as they were found."""
        self._preemption.ignore()

    def state_dict(self) -> dict[str, Any]:
        """The monitored values of the checkpoints that there are."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing."""
        self.values = dict(state_dict["values"])

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the global random generators of every process."""
        checkpoint["random_states"] = World.of(trainer).objects(capture_random_state())

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep their state for the start of training: what is set up until then draws from them."""
        self._random_states = checkpoint.get("random_states", [])
        if trainer.state.fn == "fit":
            settle(checkpoint, trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            return
        for logger in trainer.loggers:
            logger.save()  # what a run that is killed now has logged up to here
        iteration = iterations_done(trainer)
        value = self._monitored(trainer)
        if value is not None:
            self.values[iteration] = value
        path = self.folder / checkpoint_name(iteration)
        partial = path.with_name(f".{path.name}.partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if not trainer.is_global_zero:
            return
        # Lightning's own save is whole only on one file system, and goes through the system's temporary folder.
        for part in partial.rglob("*") if partial.is_dir() else [partial]:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
        found = complete_checkpoints(self.folder)
        for surplus in found.keys() - self._kept(sorted(found)):
            _remove(found[surplus])

    def _kept(self, iterations: list[int]) -> set[int]:
        known = [iteration for iteration in iterations if iteration in self.values]
        sign = -1 if self.mode == "max" else 1
        ranked = sorted(known, key=lambda at: (math.isnan(self.values[at]), sign * self.values[at]))
        best = ranked[: self.keep_best] if self.monitor is not None else []
        return {*iterations[-self.keep_last :], *best}

    def _monitored(self, trainer: L.Trainer) -> float | None:
        if self.monitor is None:
            return None
        if self.monitor not in trainer.callback_metrics:
            if any(trainer.num_val_batches) and not self._validated:
                return None  # it may be one of validation
            known = ", ".join(sorted(trainer.callback_metrics)) or "none yet"
            raise UserError(f"callbacks.checkpoint.monitor={self.monitor} is not logged; there are: {known}")
        return float(trainer.callback_metrics[self.monitor])


def _remove(path: Path) -> None:
    if path.is_dir():
        # A folder goes file by file: under this name one that is half gone is taken for no checkpoint.
        shutil.rmtree(path if PARTIAL.fullmatch(path.name) else path.rename(path.with_name(f".{path.name}.partial")))
    else:
        path.unlink()
