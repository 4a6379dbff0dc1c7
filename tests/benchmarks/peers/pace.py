"""How a process that is measured takes turns with others: one line on stdin starts a run, one on stdout ends it.

Needs the standard library alone, so that every peer's environment can import it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

MARK = "@run "


class Pace:
    """Waits for its turn before each run and tells the seconds that it took, and how many of them
    (of all threads together) the processor spent on this process: less than there were, if others wanted it too."""

    def __init__(self) -> None:
        self.began, self.cpu_began = 0.0, 0.0

    def start(self) -> None:
        """All is loaded: say so, and wait for the first turn."""
        self._tell({"ready": True})

    def end(self, **figures: Any) -> None:
        """A run ended, with ``figures`` of it; wait for the next turn."""
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu_began
        self._tell({"seconds": seconds, "cpu": cpu, **figures})

    def _tell(self, message: dict[str, Any]) -> None:
        print(f"\n{MARK}{json.dumps(message)}", flush=True)
        gc.collect()  # garbage of the last run is nobody's time
        if sys.stdin.readline().strip() != "go":
            sys.stdout.flush()
            os._exit(0)  # no last checkpoint, no report: the process was there to be measured
        self.began, self.cpu_began = time.perf_counter(), time.process_time()
