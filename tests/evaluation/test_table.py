from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf_lightning.evaluation import print_table


def printed(report: dict[str, Any], path: Path | None = None, **options: Any) -> list[str]:
    file = io.StringIO()
    print_table(report, path, console=Console(file=file, width=options.pop("width", 80), **options))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_row_for_each_metric_and_a_column_for_each_model(report: dict[str, Any]) -> None:
    lines = printed(report)
    assert "Comparison on 40 held-out prompts" in lines
    assert next(line.split() for line in lines if "PPO-ptx" in line) == ["Base", "SFT", "PPO", "PPO-ptx"]
    (rude,) = (line for line in lines if line.startswith("Rude"))
    assert rude.split() == ["Rude", "25.0", "%", "25.0", "%", "25.0", "%", "0.0", "%"]


def test_five_models_fit_80_columns(report: dict[str, Any]) -> None:
    report["models"] = {"base": report["models"]["base"], "base_prompted": report["models"]["base"], **report["models"]}
    (row,) = (line for line in printed(report) if line.startswith("Instruction followed"))
    assert row.split()[2:] == ["50.0", "%"] * 5
    assert all(len(line) <= 80 and "…" not in line for line in printed(report))


def test_the_last_line_is_the_path_of_the_report(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / ("deep/" * 20) / "report.md"
    assert printed(report, path)[-1] == f"Report: {path}"
    assert printed(report, tmp_path)[-1] == f"Report: {tmp_path / 'report.md'}"


def test_the_reward_model_and_the_time_stand_below(report: dict[str, Any]) -> None:
    lines = printed(report, width=200)
    assert lines[-2] == (
        "Reward model: held-out pairs 70.0 %, the gold reward on them 74.0 %, held-out labelers 69.0 %, "
        "labelers agree 73.0 %"
    )
    assert lines[-1] == "Time: 2 min 10 s"


@pytest.mark.parametrize(("cell", "code"), [("75.0 %", "32"), ("10.0 %", "31"), ("52.0 %", None), ("50.0 %", None)])
def test_only_a_decided_win_rate_has_a_colour(report: dict[str, Any], cell: str, code: str | None) -> None:
    lines = printed(report, force_terminal=True, color_system="standard")
    (row,) = (line for line in lines if "Win rate" in line)
    # Rich pads outside of the style, so that a coloured cell stands right behind its code.
    found = re.search(rf"\x1b\[(\d+)m{cell}", row)
    assert (found.group(1) if found else None) == code
    assert cell in row
