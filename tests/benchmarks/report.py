"""The tables that a benchmark prints, and its figures as JSON for ``bench.py``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from duel import Run, median, median_phases
from matmul import Shapes, matmul_rate
from rich.console import Console
from rich.table import Table


class Need(NamedTuple):
    """What a phase needs: operations, tokens that it reads or writes, rows of its matrices, and whether it has logits
    or goes backward."""

    operations: float
    tokens: float
    rows: int
    head: bool = True
    backward: bool = False


def phase_shares(runs: list[Run], needs: dict[str, Need], shapes: Shapes, dtype: str) -> list[dict[str, Any]]:
    """Median seconds of every phase, and those that its operations would take at the rate of this machine's products
    of these shapes, measured here and now: ``at_rate`` of those that a run has (``trainer.cpu_matmul=auto``),
    ``at_torchs_rate`` of torch's own."""
    seconds = median_phases(runs)
    rates: dict[tuple[int, bool, bool], tuple[float, float]] = {}
    rows = []
    for name, spent in seconds.items():
        row: dict[str, Any] = {"phase": name, "seconds": spent}
        if name in needs:
            need = needs[name]
            key = (need.rows, need.head, need.backward)
            if key not in rates:
                options: dict[str, Any] = {"head": need.head, "backward": need.backward}
                own = matmul_rate(shapes, need.rows, dtype, **options)
                rates[key] = own, matmul_rate(shapes, need.rows, dtype, library="torch", **options)
            own, torchs = rates[key]
            row |= {"tokens": need.tokens, "operations": need.operations}
            row |= {"at_rate": need.operations / own, "at_torchs_rate": need.operations / torchs}
        rows.append(row)
    total = {"phase": "all", "seconds": median(runs), "tokens": max(need.tokens for need in needs.values())}
    for key_ in ("operations", "at_rate", "at_torchs_rate"):
        total[key_] = sum(row.get(key_, 0.0) for row in rows)
    return [*rows, total]


def print_phases(rows: list[dict[str, Any]], title: str) -> None:
    """Seconds by phase, tokens per second, and the share of the matmul rate."""
    table = Table(title=title, title_justify="left")
    for column in ("phase", "seconds", "share", "tokens/s", "GFLOP", "GFLOP/s", "of matmul rate"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in rows:
        spent = max(row["seconds"], 1e-9)
        cells = [row["phase"], f"{spent:.3f}", f"{spent / rows[-1]['seconds']:.1%}"]
        if "tokens" in row:
            cells += [f"{row['tokens'] / spent:,.0f}", f"{row['operations'] / 1e9:.1f}"]
            cells += [f"{row['operations'] / spent / 1e9:.1f}", f"{row['at_rate'] / spent:.0%}"]
        table.add_row(*cells)
    Console(width=110).print(table)


def print_duel(found: dict[str, list[Run]], tokens: dict[str, float], title: str) -> None:
    """Every contestant's median, spread, tokens per second, and the ratio of its median to the first one's."""
    table = Table(title=title, title_justify="left")
    for column in ("", "median s", "least", "most", "CPU s", "tokens/s", "first is faster by"):
        table.add_column(column, justify="right" if column else "left")
    first = median(next(iter(found.values())))
    for name, runs in found.items():
        spent = sorted(run.seconds for run in runs)
        cpu = statistics.median(run.figures["cpu"] for run in runs)
        cells = [f"{value:.3f}" for value in (median(runs), spent[0], spent[-1], cpu)]
        cells += [f"{tokens[name] / median(runs):,.0f}", f"{median(runs) / first:.2f}x"]
        table.add_row(name, *cells)
    Console(width=110).print(table)


def save(path: Path | None, found: dict[str, list[Run]], **more: Any) -> None:
    """Seconds of all runs by contestant, those of the processor, and whatever else is told, into a JSON file."""
    if path is not None:
        seconds = {name: [run.seconds for run in runs] for name, runs in found.items()}
        cpu = {name: [run.figures["cpu"] for run in runs] for name, runs in found.items()}
        path.write_text(json.dumps({"seconds": seconds, "cpu": cpu, **more}), encoding="utf-8")
