"""What a run was started with beside its config: the command, the code and the versions."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ENVIRONMENT = "environment.jsonl"
PACKAGES = (
    "rlhf-lightning", "torch", "lightning", "transformers", "tokenizers", "datasets", "hydra-core", "peft",
    "bitsandbytes", "vllm",
)  # fmt: skip


def note_environment(run_dir: Path) -> Path:
    """Add a line to ``run_dir/environment.jsonl``: every start of the run has one."""
    path = run_dir / ENVIRONMENT
    started = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "git": {"package": git_state(Path(__file__).parent), "folder": git_state(Path.cwd())},
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(started) + "\n")
    return path


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the checkout that ``folder`` is in, its changed files and a SHA-256 of what was changed of those
    that git knows; ``None`` outside of a checkout and where there is no git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = [line[3:] for line in (_git(folder, "status", "--porcelain") or "").splitlines()]
    difference = _git(folder, "diff", "HEAD") or ""
    return {
        "commit": commit.strip(),
        "changed": changed,
        "difference": hashlib.sha256(difference.encode()).hexdigest() if difference else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
