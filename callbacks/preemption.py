"""Notice of an end: SIGTERM or a scheduler's own signal, heard between two iterations."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import Any

from rlhf_lightning.modules import World
from rlhf_lightning.modules.checkpoints import REQUEUE


class Notice(IntEnum):
    """What a process was told."""

    NONE = 0
    SAVE = 1
    LEAVE = 2


class Preemption:
    """Whether any of the processes was asked to end.

    SIGTERM asks to save and to leave with code 75. A job that handles SIGUSR2 before training starts is one of
    submitit, whose handler puts it back into the queue at once. That signal is noted here, and handed on when the
    iteration has ended and was saved. SIGTERM asks such a job to save only: submitit goes on after it, since SLURM
    sends it before SIGUSR2, and with ``scancel``, after which a job should not come back.

    It takes the place of Lightning's handler, which sends a message to the other processes from within the signal: one
    of two that happen to be within another message then waits for ever.
    """

    def __init__(self) -> None:
        self._told = Notice.NONE
        self._before: dict[signal.Signals, Any] = {}
        self._put_back: Callable[[int, FrameType | None], Any] | None = None

    def listen(self) -> None:
        """From now on the signals are noted, and do nothing else."""
        self._told = Notice.NONE
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGUSR2)
        self._put_back = handler if callable(handler) else None
        for number in (signal.SIGTERM, *([signal.SIGUSR2] if self._put_back else [])):
            self._before[number] = signal.signal(number, self._note)

    def ignore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def of_any_rank(self, world: World) -> Notice:
        """The most that one of the processes was told since they asked last; every process must ask."""
        told, self._told = self._told, Notice.NONE
        return Notice(max(world.objects(int(told))))

    def leave(self, world: World) -> None:
        """Put the job back into the queue, where it is one of submitit, and leave.

        Raises:
            SystemExit: with code 75, or with submitit's own.
        """
        self.ignore()
        if world.rank == 0 and self._put_back is not None:
            self._put_back(signal.SIGUSR2, None)
        # The others' code is 0: what starts several processes takes any other for a failure, and kills the rest.
        raise SystemExit(REQUEUE if world.rank == 0 else 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        saves_only = number == signal.SIGTERM and self._put_back is not None
        self._told = max(self._told, Notice.SAVE if saves_only else Notice.LEAVE)
