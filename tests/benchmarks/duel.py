"""Runs of several processes in turn, so that whatever else the machine does weighs on all of them.

Every contestant is one warm process: it loads, runs three times uncounted, and then waits for its turns. Nothing else
runs meanwhile. A turn is two runs, of which the second counts: one that follows a wait begins up to a third of a second
slower, which nobody sees who trains. Every other round goes the other way round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from peers.pace import MARK

HERE = Path(__file__).parent


class Contestant(NamedTuple):
    """A script that takes turns (``peers/pace.py``), the Python that runs it, and its settings."""

    name: str
    python: str
    script: str
    settings: dict[str, Any]


class Run(NamedTuple):
    """What a contestant told of one run."""

    seconds: float
    figures: dict[str, Any]


class Process:
    """A contestant that has loaded and waits.

    Raises:
        RuntimeError: it ended; with the last lines that it wrote.
    """

    def __init__(self, contestant: Contestant, folder: Path, threads: int) -> None:
        self.name = contestant.name
        stem = "".join(letter if letter.isalnum() else "-" for letter in contestant.name)
        settings, self.log = folder / f"{stem}.json", folder / f"{stem}.log"
        settings.write_text(json.dumps({**contestant.settings, "threads": threads}), encoding="utf-8")
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if contestant.script.startswith("peers/"):
            environment.pop("PYTHONPATH", None)  # a peer has an environment of its own
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [contestant.python, str(HERE / contestant.script), str(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self._hear()

    def run(self) -> Run:
        """One run."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        figures = self._hear()
        return Run(figures.pop("seconds"), figures)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.communicate("stop\n")

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: list[str] = []
        for line in self.process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
            said.append(line)
        wrote = "".join(said[-20:]) + self.log.read_text(encoding="utf-8")[-3000:]
        raise RuntimeError(f"{self.name} ended with {self.process.wait()}:\n{wrote}")


UNCOUNTED = 3  # compilers, of torch and of oneDNN, meet new shapes in them


def alternate(contestants: list[Contestant], *, runs: int, threads: int) -> dict[str, list[Run]]:
    """``runs`` counted runs of every contestant, by name."""
    found: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    with tempfile.TemporaryDirectory() as name:
        processes: list[Process] = []
        try:
            for contestant in contestants:
                processes.append(Process(contestant, Path(name), threads))
                for _ in range(UNCOUNTED):
                    processes[-1].run()
            for round_ in range(runs):
                for process in processes if round_ % 2 == 0 else reversed(processes):
                    process.run()
                    found[process.name].append(process.run())
        finally:
            for process in processes:
                process.close()
    return found


def median(runs: list[Run]) -> float:
    """Seconds."""
    return statistics.median(run.seconds for run in runs)


def median_phases(runs: list[Run]) -> dict[str, float]:
    """Median seconds of each phase that a run of the package told."""
    names = runs[0].figures["phases"]
    return {name: statistics.median(run.figures["phases"].get(name, 0.0) for run in runs) for name in names}
