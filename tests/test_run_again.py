"""A run says what it was started with, can be started again from its own config, and planned without training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import pipeline, train
from rlhf_lightning.environment import git_state
from rlhf_lightning.models import loading
from rlhf_lightning.models.skeletons import skeleton_wanted

Command = Callable[..., None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["rlhf-train", *map(str, arguments)])
        train.main()

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rows = [{"prompt": f"say {word}", "response": word} for word in ("a", "bee", "cat", "dog")]
    for name in ("demonstrations", "prompts"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "a bee is not a cat. " * 20}) + "\n")
    return tmp_path


def test_a_run_is_trained_again_from_its_own_config_bit_for_bit(
    command: Command, files: Path, causal_lm_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = files / "first", files / "second"
    command(
        "experiment=instructgpt/1.3b_rlhf_init", f"model.name={causal_lm_folders['gpt2']}", f"run_dir={first}",
        "data.train=demonstrations.jsonl", "data.text=text.jsonl", "data.text_block=16", "data.max_length=60",
        "data.batch_size=4", "module.learning_rate=0.01", "model.residual_dropout=0.2", "seed=3",
        "trainer.accelerator=cpu", "module.micro_batch_size=8",
    )  # fmt: skip
    assert "module.micro_batch_size=8 has no effect" in capsys.readouterr().out
    command("--config-dir", first / ".hydra", f"run_dir={second}")
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    assert weights[0] != (causal_lm_folders["gpt2"] / "model.safetensors").read_bytes()
    assert (second / ".hydra" / "config.yaml").is_file()  # so that this one is, too
    (started,) = [json.loads(line) for line in (first / "environment.jsonl").read_text().splitlines()]
    assert started["versions"]["torch"]
    assert started["command"][1] == "experiment=instructgpt/1.3b_rlhf_init"


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_every_stage_is_trained_again_from_its_own_config(
    stage: str,
    command: Command,
    files: Path,
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
) -> None:
    compared = [{"prompt": "say a", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}] * 4
    (files / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in compared))
    given = {
        "reward": ["data.train=comparisons.jsonl", "data.batch_size=2", "module.learning_rate=0.01"],
        "ppo": [
            "data.train=prompts.jsonl", f"module.reward.name={reward_model_folders['gpt2']}", "data.iterations=2",
            "data.rollout_batch_size=8", "module.minibatch_size=4", "module.max_new_tokens=4", "data.text=text.jsonl",
            "data.text_block=16", "data.ptx_ratio=1", "module.learning_rate=0.01", "callbacks=[ppo,policy_ema]",
        ],
    }  # fmt: skip
    base = causal_lm_folders["gpt2"]
    command(f"stage={stage}", f"model.name={base}", "run_dir=first", "seed=3", "trainer.accelerator=cpu", *given[stage])
    command("-cd", "first/.hydra", "run_dir=second")
    weights = [(files / run / "model" / "model.safetensors").read_bytes() for run in ("first", "second")]
    assert weights[0] == weights[1]
    assert weights[0] != (base / "model.safetensors").read_bytes()


def test_git_state_is_commit_and_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "a.txt").write_text("a")
    for arguments in (["init", "-q"], ["add", "a.txt"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *arguments], check=True)
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["changed"], clean["difference"]) == (40, [], None)
    (tmp_path / "a.txt").write_text("b")
    changed = git_state(tmp_path)
    assert changed is not None
    assert changed["changed"] == ["a.txt"]
    assert changed["difference"]


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_dry_run_says_the_plan_and_loads_no_weights(
    stage: str,
    command: Command,
    files: Path,
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparison = {"prompt": "say a", "chosen": "a", "rejected": "b"}
    (tmp_path / "comparisons.jsonl").write_text((json.dumps(comparison) + "\n") * 8)
    given = {
        "sft": ["data.train=demonstrations.jsonl"],
        "reward": ["data.train=comparisons.jsonl"],
        "ppo": [
            "data.train=prompts.jsonl", f"module.reward.name={reward_model_folders['llama']}", "data.iterations=3",
            "data.rollout_batch_size=8", "module.minibatch_size=4", "module.max_new_tokens=4", "data.text=text.jsonl",
            "data.text_block=16", "data.ptx_ratio=1",
        ],
    }  # fmt: skip
    load = loading._load

    def skeleton(*arguments: object) -> object:
        assert skeleton_wanted(), "weights are read"
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "_load", skeleton)
    command(
        f"stage={stage}", f"model.name={causal_lm_folders['llama']}", "run_dir=run", "dry_run=true",
        "trainer.accelerator=cpu", *given[stage],
    )  # fmt: skip
    wanted = {"sft": "8 rows, 1 optimizer steps", "reward": "8 rows, 1 optimizer steps", "ppo": "6 optimizer steps"}
    shown = capsys.readouterr().out
    assert wanted[stage] in shown
    assert "memory: " in shown
    assert "nothing was trained" in shown
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_dry_run_of_a_pipeline_lists_its_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["rlhf-pipeline", "experiment=quickstart", f"run_dir={tmp_path / 'run'}", "dry_run=true"]
    )
    pipeline.main()
    shown = capsys.readouterr().out
    order = ["prepare", "pretrain", "sft", "collect", "collect_heldout", "reward", "ppo", "ppo_ptx", "evaluate"]
    assert [line.split()[0] for line in shown.splitlines() if "would run" in line] == order
    assert not (tmp_path / "run" / "steps").exists()
