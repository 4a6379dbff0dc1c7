"""rlhf-evaluate from the command line to the report, on a tiny random model."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import OmegaConf

from rlhf_lightning import evaluate

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "benchmarks").glob("*.yaml"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(*arguments: str) -> None:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["rlhf-evaluate", *arguments])
        evaluate.main()

    return call


def test_the_command_writes_a_report(
    run: Callable[..., None], causal_lm_folders: dict[str, Path], eval_files: dict[str, str], tmp_path: Path
) -> None:
    arguments = [
        f"models.mine.name={causal_lm_folders['llama']}",
        "benchmarks=[crows_pairs,squadv2]",
        f"files={tmp_path / 'eval'}",
        f"benchmarks.crows_pairs.file={eval_files['crows_pairs']}",
        "benchmarks.squadv2.file=${files}/squad.json",
        "limit=1",
        f"out={tmp_path / 'out'}",
    ]
    run(*arguments)
    report: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["benchmarks"]) == ["crows_pairs", "squadv2"]
    assert report["benchmarks"]["squadv2"]["max_new_tokens"] == 16
    assert report["command"].startswith("rlhf-evaluate")
    assert "models.mine.name=.../" in report["command"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "**1 of the 2 rows** of `crows.csv`" in page
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {"crows_pairs.png", "squadv2.png"}
    # Again: every answer is known, and the figures are the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "answers").iterdir()}
    run(*arguments)
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again["benchmarks"] == report["benchmarks"]
    assert {path.name for path in (tmp_path / "out" / "answers").iterdir()} == {path.name for path in before}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmarks=[crows_pairs]"], "benchmarks.crows_pairs.file=./crows_pairs_anonymized.csv does not exist"),
        (["benchmarks=[nothing]"], "nothing"),
        (["models.a.name=x"], "there is nothing to evaluate"),
    ],
)
def test_mistakes_are_one_line(
    run: Callable[..., None],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, f"out={tmp_path / 'out'}")
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("rlhf-evaluate: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_benchmark_is_an_argument_of_its_function(name: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = OmegaConf.to_container(compose("evaluate", overrides=[f"benchmarks=[{name}]", "limit=3"]))
    assert isinstance(config, dict)
    (node,) = config["benchmarks"].values()
    signature = inspect.signature(get_object(node["_target_"]))
    assert {key for key in node if not key.startswith("_")} == set(signature.parameters)
    assert node["name"] == name
    given = {key for key in config["evaluate"] if not key.startswith("_")}
    takes = set(inspect.signature(get_object(config["evaluate"]["_target_"])).parameters)
    assert given == takes - {"out"}
