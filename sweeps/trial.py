"""What one trial of a sweep leaves behind, as ``trial.json`` in its folder: written by the trial itself, wherever a
launcher runs it, and read by the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FILE = "trial.json"
COMPLETE, PRUNED, FAILED, RUNNING, STOPPED = "complete", "pruned", "failed", "running", "stopped"


class Trial(NamedTuple):
    """One trial.

    Attributes:
        number: of the trial, from 0.
        overrides: ``key=value`` of the whole command, those of the sweep included, without ``run_dir``.
        state: ``complete``, ``pruned`` (ended early as hopeless), ``failed``, ``running`` or ``stopped``.
        metrics: its last ones, by name.
        seconds: that it took; of a stopped trial that went on, those of its last start.
        folder: of the run.
        error: why it failed, in one line.
    """

    number: int
    overrides: tuple[str, ...]
    state: str
    metrics: Mapping[str, float]
    seconds: float
    folder: str
    error: str = ""

    def parameters(self) -> dict[str, str]:
        """The overrides as a mapping; the last of a key counts, and the marks of added keys are left out."""
        return {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in self.overrides)}


def write_trial(trial: Trial, folder: Path) -> None:
    """Write the trial's file, whole or not at all; what is not a number is left out of its metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    content = trial._asdict() | {"metrics": {k: v for k, v in trial.metrics.items() if math.isfinite(v)}}
    partial = folder / f".{FILE}.partial"
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / FILE)


def read_trial(folder: Path) -> Trial | None:
    """The trial of a folder, if it holds one."""
    file = folder / FILE
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return Trial(**content | {"overrides": tuple(content["overrides"])})


def read_trials(folder: Path) -> list[Trial]:
    """All trials of a sweep's folder, by number."""
    found = [read_trial(path.parent) for path in folder.glob(f"*/{FILE}")]
    return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)


def varied(trials: list[Trial]) -> list[str]:
    """The keys whose values differ between trials, in the order of the command."""
    keys = dict.fromkeys(key for trial in trials for key in trial.parameters())
    return [key for key in keys if len({trial.parameters().get(key) for trial in trials}) > 1]
