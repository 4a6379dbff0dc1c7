"""``rollout=...`` from the command line, and engines inside a PPO run."""

from __future__ import annotations

import csv
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import get_object
from omegaconf import OmegaConf

from rlhf_lightning import train

ENGINES = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "conf/rollout").glob("*.yaml"))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_composes_and_offers_what_its_class_has(name: str) -> None:
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=["stage=ppo", f"rollout={name}"])
    engine = OmegaConf.to_container(config.rollout.engine)
    assert isinstance(engine, dict)
    arguments = inspect.signature(get_object(engine.pop("_target_"))).parameters
    defaults = {key: parameter.default for key, parameter in arguments.items()}
    assert engine | {"options": {}} == defaults | {"options": {}}


@pytest.fixture
def run(
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[dict[str, str]]]:
    """Two iterations of PPO with the given overrides; the rows of its metrics."""

    def go(*overrides: str) -> list[dict[str, str]]:
        prompts, folder = tmp_path / "prompts.jsonl", tmp_path / "run"
        prompts.write_text("".join(json.dumps({"prompt": f"say {word}"}) + "\n" for word in ("hi", "no", "yes", "why")))
        arguments = [
            "stage=ppo",
            f"model.name={causal_lm_folders['llama']}",
            f"module.reward.name={reward_model_folders['llama']}",
            f"data.train={prompts}",
            f"run_dir={folder}",
            "data.iterations=2",
            "data.rollout_batch_size=4",
            "module.minibatch_size=2",
            "module.max_new_tokens=6",
            "module.learning_rate=1e-3",
            "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false",
            "logger=csv",
        ]
        monkeypatch.setattr(sys, "argv", ["rlhf-train", *arguments, *overrides])
        train.main()
        assert (folder / "model/model.safetensors").is_file()
        (metrics,) = folder.glob("csv/**/metrics.csv")
        return [row for row in csv.DictReader(metrics.open()) if row.get("rollout/engine_gap")]

    return go


def test_ppo_with_continuous_batching(run: Callable[..., list[dict[str, str]]]) -> None:
    rows = run("rollout=continuous", "rollout.engine.page_size=16", "module.temperature=0.8")
    assert len(rows) == 2
    assert all(float(row["rollout/engine_gap"]) < 1e-4 for row in rows)


def test_ppo_with_a_compiled_step(run: Callable[..., list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torch.compile with a backend that leaves the graph as it is: no compiler is needed."""
    real, graphs = torch.compile, []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()  # what other tests have compiled
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=backend, **options))
    rows = run("rollout.engine.compile=true")
    assert len(rows) == 2
    assert all(float(row["rollout/engine_gap"]) < 1e-4 for row in rows)
    assert len(graphs) == 2  # that of the check, and the step once for both iterations


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout=vllm", "pip install rlhf-lightning[vllm]"),
        ("rollout=continuous rollout.engine.batch_tokens=0", "batch_tokens=0 must be at least 1"),
    ],
)
def test_an_engine_that_cannot_work_stops_the_run_at_the_start(
    run: Callable[..., list[dict[str, str]]],
    override: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # also where it is installed
    with pytest.raises(SystemExit):
        run(*override.split())
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_ppo_with_rollouts_that_are_sampled_early(run: Callable[..., list[dict[str, str]]]) -> None:
    rows = run("rollout.async=true", "data.iterations=3")
    assert len(rows) == 3
    assert all(float(row["rollout/engine_gap"]) < 1e-4 for row in rows)
    ratios = [float(row["train/ratio"]) for row in rows]
    # Two optimizer steps an iteration: the first iteration begins at ratio 1, the others one iteration away from it.
    assert abs(ratios[1] - 1) > abs(ratios[0] - 1)
