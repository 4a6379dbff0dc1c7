"""Sweeps from the command line: folders, records, report, failures, starts over, launchers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import train

Sweep = Callable[..., int | str | None]


@pytest.fixture
def rows(tmp_path: Path, write_rows: Callable[..., dict[str, str]]) -> dict[str, str]:
    said = [{"prompt": f"say {word}", "response": word} for word in ("a", "bee", "cat", "dog")] * 2
    return write_rows(tmp_path, {"demonstrations": said, "prompts": [{"prompt": row["prompt"]} for row in said]})


@pytest.fixture
def sft(causal_lm_folders: dict[str, Path], rows: dict[str, str], tmp_path: Path) -> list[str]:
    return [
        "stage=sft",
        f"model.name={causal_lm_folders['llama']}",
        f"data.train={rows['demonstrations']}",
        f"data.validation={rows['demonstrations']}",
        "data.batch_size=4",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "logger=csv",
        "optimized_metric=val/loss",
        f"run_dir={tmp_path}/sweep",
    ]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """``rlhf-train -m`` in this process; returns its exit code."""

    def run(*arguments: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["rlhf-train", "-m", *arguments])
        try:
            train.main()
        except SystemExit as leaving:
            return leaving.code
        return 0

    return run


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def finished_at(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}


def test_a_grid_with_a_failed_trial_is_reported_and_goes_on(
    sweep: Sweep, sft: list[str], rows: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of their own, the failed trial in its place; the same command again runs the failed one alone."""
    folder = tmp_path / "sweep"
    missing = tmp_path / "later.jsonl"
    grid = ["sweep=grid", "module.learning_rate=1e-3,1e-2", f"data.train={missing},{rows['demonstrations']}"]
    assert sweep(*sft, *grid) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith("rlhf-train: error: 2 of 4 trials failed (trial 0: ")
    assert "later.jsonl" in said
    assert "sweep_report.md" in said
    found = trials(folder)
    assert [row["state"] for row in found] == ["failed", "failed", "complete", "complete"]
    assert [row["module.learning_rate"] for row in found] == ["0.001", "0.01", "0.001", "0.01"]
    assert "later.jsonl" in found[0]["error"]
    for number in (2, 3):
        own = json.loads((folder / str(number) / "metrics.json").read_text())
        assert found[number]["val/loss"] == str(own["val/loss"])
        assert (folder / str(number) / "model" / "model.safetensors").is_file()
    report = (folder / "sweep_report.md").read_text()
    best = min((2, 3), key=lambda number: float(found[number]["val/loss"]))
    assert f"Trial {best} (val/loss" in report
    before = finished_at(folder)
    missing.write_text(Path(rows["demonstrations"]).read_text())
    assert sweep(*sft, *grid) == 0
    after = finished_at(folder)
    assert {name: after[name] for name in before} == before
    assert [row["state"] for row in trials(folder)] == ["complete"] * 4


def test_another_sweep_in_the_same_folder_is_told(
    sweep: Sweep, sft: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*sft, "sweep=grid", "module.learning_rate=1e-3") == 0
    assert sweep(*sft, "sweep=grid", "module.learning_rate=1e-2") == 1
    assert "holds a trial of another sweep" in capsys.readouterr().err


def test_the_metric_is_named_or_the_nearest_is(
    sweep: Sweep, sft: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*sft, "sweep=grid", "optimized_metric=val/los") == 1
    assert "optimized_metric=val/los: the run has no such metric; did you mean val/loss?" in capsys.readouterr().err


def test_a_sweep_without_m_is_one_run_and_says_so(
    sft: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlhf-train", *sft, "sweep=seeds"])
    train.main()
    assert "sweep=seeds without -m: one run" in capsys.readouterr().out
    assert (tmp_path / "sweep" / "model").is_dir()


def test_optuna_through_the_command_line(sweep: Sweep, sft: list[str], tmp_path: Path) -> None:
    """The value is that of the metric; a second start with more trials goes on."""
    optuna = pytest.importorskip("optuna")
    folder = tmp_path / "sweep"
    own = ["sweep=grid", "hydra/sweeper=optuna", "module.learning_rate=tag(log,interval(1e-4,1e-2))"]
    assert sweep(*sft, *own, "hydra.sweeper.n_trials=2") == 0
    assert sweep(*sft, *own, "hydra.sweeper.n_trials=3") == 0
    stored = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials
    found = trials(folder)
    assert [str(trial.value) for trial in stored] == [row["val/loss"] for row in found]
    assert [str(trial.params["module.learning_rate"]) for trial in stored] == [
        row["module.learning_rate"] for row in found
    ]
    assert len(stored) == 3
    assert (folder / "optimization_results.yaml").is_file()


def in_parallel(sft: list[str], *arguments: str) -> str:
    """What a sweep with one failure says that runs two trials at a time."""
    command = [sys.executable, "-m", "rlhf_lightning.train", "-m", *sft, "sweep=grid", "hydra/launcher=parallel"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_joblib_runs_trials_in_processes_of_their_own(sft: list[str], rows: dict[str, str], tmp_path: Path) -> None:
    said = in_parallel(sft, "module.learning_rate=1e-3", f"data.train=missing.jsonl,{rows['demonstrations']}")
    assert "1 of 2 trials failed (trial 0: " in said
    found = trials(tmp_path / "sweep")
    assert [row["state"] for row in found] == ["failed", "complete"]
    assert "missing.jsonl" in found[0]["error"]


@pytest.mark.slow
def test_trials_of_joblib_train_with_several_processes(sft: list[str], tmp_path: Path) -> None:
    said = in_parallel(sft, "module.learning_rate=1e-3", "trainer.devices=1,2,3", "strategy=ddp")
    assert "1 of 3 trials failed (trial 2: " in said
    assert "A batch size of 4 cannot be shared by 3 processes" in said
    found = trials(tmp_path / "sweep")
    assert [row["state"] for row in found] == ["complete", "complete", "failed"]
    assert float(found[0]["val/loss"]) == pytest.approx(float(found[1]["val/loss"]), rel=1e-4)


def test_a_study_needs_a_metric(sweep: Sweep, sft: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sweep=grid", "hydra/sweeper=optuna", "seed=range(3)", "hydra.sweeper.n_trials=1"]
    assert sweep(*sft, *arguments, "optimized_metric=null") == 1
    assert "name the metric that the study optimizes" in capsys.readouterr().err
