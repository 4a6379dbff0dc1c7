"""What a command that was started does once the one that started it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_lightning.parent import VARIABLE, end_with_parent

CHILD = """
import signal, sys, time
from pathlib import Path
from rlhf_lightning.parent import end_with_parent

folder = Path(sys.argv[1])
def save(number, frame):
    (folder / "saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
end_with_parent()
(folder / "ready").touch()
time.sleep(60)
"""
PARENT = """
import os, sys
from rlhf_lightning.parent import start_child
start_child([sys.executable, "-c", sys.argv[1], sys.argv[2]], os.environ).wait()
"""


def wait_for(file: Path) -> bool:
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return file.exists()


def test_a_command_saves_and_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path)]) as parent:
        assert wait_for(tmp_path / "ready")
        assert not (tmp_path / "saved").exists()
        parent.kill()
    assert wait_for(tmp_path / "saved")


def test_a_command_of_ones_own_reads_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("reads what belongs to the user"))
    end_with_parent()
