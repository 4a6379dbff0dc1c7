"""The end of training, on which all processes must agree."""

from __future__ import annotations

from typing import Any

import lightning as L


class StopTogether(L.Callback):
    """``trainer.should_stop`` of one process is that of all.

    Every training step here is a collective, so a process that stopped by itself (a callback that looks at what only it
    sees: a clock, a file, its own batch) would leave the others waiting for ever. Modules bring this callback along; it
    runs behind the user's, and before checkpoints are saved.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Behind a batch."""
        self._agree(trainer)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Behind a validation, in the middle of an epoch or at its end."""
        if trainer.state.fn == "fit":
            self._agree(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Behind an epoch."""
        self._agree(trainer)

    @staticmethod
    def _agree(trainer: L.Trainer) -> None:
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(trainer.should_stop, all=False)
