"""What is left of the processes of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import subprocess, sys, time
from types import SimpleNamespace
from rlhf_lightning.launching import ending_together

other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
launcher = SimpleNamespace(kill=other.send_signal)
with ending_together(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))):
    print(other.pid, flush=True)
    time.sleep(120)
"""


def test_sigterm_before_training_ends_the_other_processes_too() -> None:
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert run.stdout is not None
    other = int(run.stdout.readline())
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == -signal.SIGTERM
    status = Path(f"/proc/{other}/stat")
    for _ in range(100):
        if not status.exists() or ") Z " in status.read_text():
            return
        time.sleep(0.05)
    os.kill(other, signal.SIGKILL)
    raise AssertionError("the other process was left behind")
