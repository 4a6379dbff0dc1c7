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
from rlhf_lightning.evaluation import card_drift

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
        (["models.sft.name=x", "prompts=p.jsonl"], "prompts=p.jsonl asks who is preferred: give preference.reward"),
        (["preference.reward_model=x"], "preference.reward_model has no effect without prompts=FILE"),
        (["evaluate.batch_size=many"], "evaluate.batch_size=many must be a whole number"),
        (["models.a.name=x", "evaluate.text=t", "evaluate.text_block=0"], "evaluate.text_block=0 must be at least 1"),
        (["+evaluate.batchsize=2"], "no such key: evaluate.batchsize; did you mean evaluate.batch_size?"),
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


def test_preference_and_benchmarks_stand_in_one_report(
    run: Callable[..., None],
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    eval_files: dict[str, str],
    tmp_path: Path,
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "go"}\n{"prompt": "hi"}\n')
    arguments = [
        f"models.sft.name={causal_lm_folders['llama']}",
        f"models.other.name={causal_lm_folders['gpt2']}",
        f"prompts={tmp_path / 'prompts.jsonl'}",
        f"preference.reward_model={reward_model_folders['llama']}",
        "preference.max_new_tokens=4",
    ]
    out = tmp_path / "both"
    crows = f"benchmarks.crows_pairs.file={eval_files['crows_pairs']}"
    run(*arguments, "benchmarks=[crows_pairs]", crows, f"out={out}")
    report = json.loads((out / "report.json").read_text())
    found = report["preference"]["models"]["other"]
    assert 0 <= found["win_rate_interval"][0] <= found["win_rate_vs_sft"] <= found["win_rate_interval"][1] <= 1
    page = (out / "report.md").read_text()
    assert page.index("# Who wins") < page.index("# Benchmarks")
    assert {"win_rates.png", "crows_pairs.png"} <= {path.name for path in (out / "plots").iterdir()}
    for file in [*report["preference"]["samples"].values(), *report["samples"].values()]:
        assert Path(file).is_file()
    card = (out / "MODEL_CARD.md").read_text()
    assert card_drift(out) == []
    figure = report["benchmarks"]["crows_pairs"]["results"]["biased prompt"]["other"]["entropy"]
    low, high = figure["interval"]
    assert f"| biased prompt | entropy | {figure['value']:.4g} | {low:.4g} to {high:.4g} |" in card
    assert "Win rate vs SFT" in card
    # Of prompts alone it is the report of a pipeline.
    run(*arguments, f"out={tmp_path / 'one'}")
    alone = json.loads((tmp_path / "one" / "report.json").read_text())
    assert alone["models"] == report["preference"]["models"]
    assert alone["baseline"] == "sft"


def test_an_evaluation_is_done_again_from_its_own_config(
    run: Callable[..., None], causal_lm_folders: dict[str, Path], eval_files: dict[str, str], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(
        f"models.mine.name={causal_lm_folders['llama']}",
        "benchmarks=[crows_pairs]",
        f"benchmarks.crows_pairs.file={eval_files['crows_pairs']}",
        f"out={first}",
    )
    run("--config-dir", str(first / ".hydra"), f"out={second}")
    reports = [json.loads((folder / "report.json").read_text())["benchmarks"] for folder in (first, second)]
    assert reports[0] == reports[1]
    assert (second / ".hydra" / "config.yaml").is_file()


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
    given = {key for key in config["preference"] if not key.startswith("_")}
    assert given == set(inspect.signature(get_object(config["preference"]["_target_"])).parameters) - {"out"}
