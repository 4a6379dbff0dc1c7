"""Metrics of a run that was resumed. Lightning's CSV logger deletes the file of the session before."""

from __future__ import annotations

import csv
import os
from pathlib import Path

FILE = "metrics.csv"


def put_aside(folder: Path) -> None:
    """Rename the metrics of an earlier session, so that a new logger does not delete them."""
    current = folder / FILE
    if current.is_file():
        os.replace(current, folder / f"metrics-{len(list(folder.glob('metrics-*.csv'))) + 1:03d}.csv")


def join_sessions(folder: Path) -> None:
    """Write the metrics of all sessions into one file. Steps that a later session did again, because it resumed from
    a checkpoint before them, count once."""
    earlier = sorted(folder.glob("metrics-*.csv"))
    current = folder / FILE
    if not earlier:
        return
    files = [*earlier, current] if current.is_file() else earlier
    sessions = [_rows(session) for session in files]
    joined = sessions[-1]
    for session in reversed(sessions[:-1]):
        begin = min((int(row["step"]) for row in joined), default=None)
        joined = [row for row in session if begin is None or int(row["step"]) < begin] + joined
    columns = list(dict.fromkeys(name for row in joined for name in row))
    partial = folder / f".{FILE}.partial"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(joined)
    os.replace(partial, current)
    for old in earlier:
        old.unlink()


def last_metrics(folder: Path, *, before: int) -> dict[str, float]:
    """The last value of each metric at steps below ``before``; empty where nothing was logged."""
    file = folder / FILE
    found: dict[str, float] = {}
    for row in _rows(file) if file.is_file() else ():
        if int(row["step"]) < before:
            found |= {name: float(value) for name, value in row.items() if value and name not in ("epoch", "step")}
    return found


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if (row.get("step") or "").isdigit()]
