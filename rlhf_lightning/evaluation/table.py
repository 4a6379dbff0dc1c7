"""The comparison as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_lightning.evaluation.wording import comparison_rows, model_title, written, written_seconds


def print_table(report: Mapping[str, Any], path: str | Path | None = None, *, console: Console | None = None) -> None:
    """Print the comparison, the reward model's accuracy and the time, ending with the path of the report.

    A win rate is green or red where its interval lies above or below one half, and plain where it does not.

    Args:
        report: as for :func:`~rlhf_lightning.evaluation.write_report`.
        path: what :func:`~rlhf_lightning.evaluation.write_report` returned, or the folder it wrote to.
        console: where to; the standard output by default.
    """
    console = console or Console()
    models = report["models"]
    prompts = report.get("settings", {}).get("prompts")
    heading = "Comparison" if prompts is None else f"Comparison on {prompts} held-out prompts"
    table = Table(
        title=heading, title_justify="left", title_style="bold", header_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("", no_wrap=True)
    for name in models:
        table.add_column(model_title(name), justify="right", min_width=9, vertical="bottom")
    for row in comparison_rows(report):
        cells = [Text(cell) for cell in row.cells]
        if row.key.startswith("win_rate"):
            for cell, values in zip(cells, models.values(), strict=True):
                cell.stylize(_style(*values["win_rate_interval"]))
        table.add_row(Text(row.title), *cells)
    console.print()
    console.print(table)
    lines = [_reward_model(report.get("reward_model") or {}), _seconds(report.get("seconds") or {})]
    for line in filter(None, lines):
        console.print(Text(line))
    if path is not None:
        path = Path(path) / "report.md" if Path(path).is_dir() else path
        # A path that is broken over two lines cannot be copied.
        console.print(Text.assemble("Report: ", (str(path), "bold")), soft_wrap=True)


def _style(low: float, high: float) -> str:
    return "green" if low > 0.5 else "red" if high < 0.5 else ""


def _reward_model(values: Mapping[str, Any]) -> str:
    shown = [
        f"{title} {written(values[key], 'rate')}"
        for key, title in (
            ("accuracy", "held-out pairs"),
            ("gold_accuracy", "the gold reward on them"),
            ("heldout_labeler_accuracy", "held-out labelers"),
            ("label_agreement", "labelers agree"),
        )
        if values.get(key) is not None
    ]
    return f"Reward model: {', '.join(shown)}" if shown else ""


def _seconds(values: Mapping[str, float]) -> str:
    return f"Time: {written_seconds(values['total'])}" if values.get("total") is not None else ""
