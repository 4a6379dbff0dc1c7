"""Notice of an end: SIGTERM, heard between two iterations."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from rlhf_lightning.modules import World


class Preemption:
    """Whether any of the processes was asked to end.

    It takes the place of Lightning's handler, which sends a message to the other processes from within the signal: one
    of two that happen to be within another message then waits for ever.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def listen(self) -> None:
        """From now on SIGTERM is noted, and does nothing else."""
        self.received = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def ignore(self) -> None:
        """Give SIGTERM back to whom it belonged."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def of_any_rank(self, world: World) -> bool:
        """Whether one of the processes was told; every process must ask."""
        if world.size == 1:
            return self.received
        return any(world.objects(self.received))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
