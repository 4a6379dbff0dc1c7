from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.evaluation import report as module
from rlhf_lightning.evaluation import write_report


@pytest.fixture
def curves(tmp_path: Path) -> dict[str, str | Path | None]:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,0,2.0\n0,1,1.0\n")
    return {"sft": tmp_path / "metrics.csv"}


def test_the_files(report: dict[str, Any], tmp_path: Path, curves: dict[str, str | Path | None]) -> None:
    path = write_report(report, tmp_path / "run", curves=curves)
    assert path == tmp_path / "run" / "report.md"
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert sorted(links) == sorted(f"plots/{file.name}" for file in (tmp_path / "run" / "plots").iterdir())
    assert len(links) == 5
    for link in links:
        assert (tmp_path / "run" / link).read_bytes().startswith(b"\x89PNG")


def test_what_json_cannot_say_is_null(report: dict[str, Any], tmp_path: Path) -> None:
    report["models"]["ppo"]["kl"] = float("nan")
    report["models"]["ppo"]["win_rate_interval"] = (0.7, float("inf"))
    report["steps"] = {"sft": Path("a/b")}
    write_report(report | {"models": {**report["models"]}}, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert written["models"]["ppo"]["kl"] is None
    assert written["models"]["ppo"]["win_rate_interval"] == [0.7, None]
    assert written["steps"] == {"sft": "a/b"}


def test_a_plot_of_an_earlier_report_does_not_stay(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert (tmp_path / "plots" / "calibration.png").is_file()
    text = write_report(report | {"reward_model": None}, tmp_path).read_text(encoding="utf-8")
    assert not (tmp_path / "plots" / "calibration.png").exists()
    assert "calibration.png" not in text


def test_a_missing_curve_is_a_warning(report: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_report(report, tmp_path, curves={"sft": tmp_path / "absent.csv", "ppo": None})
    assert [record.getMessage() for record in caplog.records] == [
        f"the report has no learning curve of stage sft: {tmp_path / 'absent.csv'} does not exist"
    ]


def test_an_interrupted_report_leaves_the_old_one(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(report, tmp_path)
    before = (tmp_path / "report.md").read_text(encoding="utf-8")

    def stop(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "markdown", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(report | {"seed": 99}, tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == before
    assert not list(tmp_path.glob(".*"))
