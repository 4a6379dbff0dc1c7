"""A process that ends with the one that has started it, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

VARIABLE = "RLHF_ENDS_WITH_PARENT"


def start_child(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command that calls :func:`end_with_parent`: its standard input is a pipe, whose other end the operating
    system closes with this process, be it killed."""
    return subprocess.Popen(command, env={**environment, VARIABLE: "1"}, stdin=subprocess.PIPE)


def end_with_parent() -> None:
    """Send this process SIGTERM, at which training saves and leaves, once the one that has started it is gone; nothing
    where that is not :func:`start_child`'s."""
    if os.environ.pop(VARIABLE, None) is not None:  # which processes that this one starts must not inherit
        threading.Thread(target=_watch, daemon=True, name="end_with_parent").start()


def _watch() -> None:
    os.read(0, 1)  # nothing is ever written
    os.kill(os.getpid(), signal.SIGTERM)
