"""Lightning callbacks that measure a run of the package and take turns with other processes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from peers.pace import Pace

# Methods of PPOModule that are phases of their own; what is left of an iteration is its update.
WRAPPED = ("rollout", "score", "evaluate", "advantages")


class Phases(L.Callback):
    """Seconds by phase of each run of ``every`` training batches.

    ``forward``, ``backward`` and ``optimizer`` (with clipping) are those of the updates; ``loop`` is what lies between
    two training steps: Lightning's loop and the data loader.
    """

    def __init__(self, every: int = 1) -> None:
        self.every, self.pace = every, Pace()
        self.batches = 0
        self._clear()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for name in WRAPPED:
            if hasattr(pl_module, "rollout"):
                setattr(pl_module, name, self._timed(name, getattr(pl_module, name)))
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: self._mark("optimizer"))
        self.pace.start()
        self._clear()

    def on_train_batch_start(self, *_: Any) -> None:
        self._mark("loop")

    def on_before_backward(self, *_: Any) -> None:
        self._mark("forward")

    def on_after_backward(self, *_: Any) -> None:
        self._mark("backward")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self._mark("rest")
        trajectory = outputs.get("trajectory") if isinstance(outputs, dict) else None
        if trajectory is not None:
            self.lengths += [trajectory.prompt_lengths.tolist(), trajectory.response_lengths.tolist()]
        self.batches += 1
        if self.batches % self.every == 0:
            self.pace.end(phases=self.seconds, lengths=self.lengths)
            self._clear()

    def _clear(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lengths: list[list[int]] = []  # of prompts and responses, one list behind the other
        self._last = time.perf_counter()

    def _mark(self, phase: str) -> None:
        """All time since the last mark belongs to this phase."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def _timed(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self._mark("rest")
            result = method(*arguments, **options)
            self._mark(phase)
            return result

        return run


class Rollouts(L.Callback):
    """Nothing but rollouts of the first batch of prompts, as PPO makes them, one a run."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pace = Pace()
        pace.start()
        while True:
            with trainer.precision_plugin.train_step_context():
                generation = pl_module.rollout(batch["prompts"], pl_module.generator)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            pace.end(lengths=[batch["prompts"].lengths.tolist(), generation.lengths.tolist()])
