"""Progress with the numbers that matter: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from rlhf_lightning.callbacks.episodes import iterations_done
from rlhf_lightning.errors import UserError


class TrainingProgressBar(RichProgressBar):
    """Lightning's Rich progress bar. Where standard output is no terminal (a log file, CI), a plain line every
    ``every`` iterations and after the last one takes its place.

    The numbers are those that a module logs with ``prog_bar=True``.

    Args:
        every: iterations from one line to the next.
        refresh_rate: updates of the bar a second.
    """

    def __init__(self, *, every: int = 10, refresh_rate: int = 10) -> None:
        if every < 1:
            raise UserError(f"callbacks.progress_bar.every={every} must be at least 1")
        super().__init__(refresh_rate=refresh_rate)
        self.every = every
        self._lines = False
        self._last = (0, 0.0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Bar or lines."""
        super().setup(trainer, pl_module, stage)
        self._lines = not sys.stdout.isatty() and trainer.is_global_zero
        if self._lines:
            self.disable()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Without the logger's version number."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._last = (iterations_done(trainer), time.monotonic())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or print a line if one is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        iteration = iterations_done(trainer)
        if self._lines and (iteration % self.every == 0 or trainer.is_last_batch or trainer.should_stop):
            now, (last, then) = time.monotonic(), self._last
            speed = (now - then) / max(iteration - last, 1)
            self._last = (iteration, now)
            total = trainer.num_training_batches * (trainer.max_epochs or math.inf)
            of = f"/{total:.0f}" if 0 < total < math.inf else ""
            metrics = self.get_metrics(trainer, pl_module)
            self.print("  ".join([f"iteration {iteration}{of}", *_numbers(metrics), f"{speed:.3g} s/iteration"]))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What validation found."""
        super().on_validation_end(trainer, pl_module)
        if self._lines and trainer.state.fn == "fit" and not trainer.sanity_checking:
            found = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val")}
            self.print("  ".join([f"validation after iteration {iterations_done(trainer)}", *_numbers(found)]))


def _numbers(metrics: dict[str, Any]) -> list[str]:
    return [f"{name} {float(value):.4g}" for name, value in metrics.items()]
