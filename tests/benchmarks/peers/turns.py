"""A callback of transformers' Trainer that takes turns."""

from __future__ import annotations

from pace import Pace
from transformers import TrainerCallback


class Turns(TrainerCallback):
    """A run is one pass over the data."""

    def __init__(self) -> None:
        self.pace = Pace()

    def on_train_begin(self, args, state, control, **_):
        self.pace.start()

    def on_epoch_end(self, args, state, control, **_):
        self.pace.end(steps=state.global_step)
