"""Bad input at the command line: one line with the way out, exit code 1, nothing written before is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import collect, pipeline, train

Run = Callable[..., str]


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    return write(tmp_path / "demonstrations.jsonl", *[{"prompt": "say hi", "response": "hi there"}] * 4)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", *[{"prompt": "say hi"}] * 4)


@pytest.fixture
def sft(causal_lm_folders: dict[str, Path], tmp_path: Path) -> list[object]:
    return ["stage=sft", f"model.name={causal_lm_folders['llama']}", f"run_dir={tmp_path / 'run'}"]


@pytest.fixture
def reward(causal_lm_folders: dict[str, Path], tmp_path: Path) -> list[object]:
    return ["stage=reward", f"model.name={causal_lm_folders['llama']}", f"run_dir={tmp_path / 'run'}"]


@pytest.fixture
def ppo(causal_lm_folders: dict[str, Path], reward_model_folders: dict[str, Path], tmp_path: Path) -> list[object]:
    return [
        "stage=ppo",
        f"model.name={causal_lm_folders['llama']}",
        f"module.reward.name={reward_model_folders['llama']}",
        f"run_dir={tmp_path / 'run'}",
        "data.iterations=2",
        "data.rollout_batch_size=4",
        "module.minibatch_size=2",
        "module.max_new_tokens=4",
    ]


def test_missing_file(fails: Run, sft: list[object], tmp_path: Path) -> None:
    line = fails(train.main, *sft, f"data.train={tmp_path}/none.jsonl")
    assert "none.jsonl" in line
    assert "does not exist" in line


def test_empty_dataset(fails: Run, sft: list[object], tmp_path: Path) -> None:
    line = fails(train.main, *sft, f"data.train={write(tmp_path / 'empty.jsonl')}")
    assert "empty.jsonl" in line


def test_row_without_the_needed_field(fails: Run, sft: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "a", "answer": "b"})
    line = fails(train.main, *sft, f"data.train={rows}")
    assert "rows.jsonl" in line
    assert "line 2" in line
    assert "response" in line


def test_demonstration_longer_than_the_context(fails: Run, sft: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "long.jsonl", {"prompt": "a" * 60, "response": "b" * 20})
    line = fails(train.main, *sft, f"data.train={rows}")
    assert "64" in line  # the context
    assert "long.jsonl" in line


def test_prompt_longer_than_the_context(fails: Run, ppo: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "long.jsonl", {"prompt": "a" * 62})
    line = fails(train.main, *ppo, f"data.train={rows}")
    assert "64" in line
    assert "max_new_tokens" in line or "max_prompt_length" in line


def test_one_completion_is_no_comparison(fails: Run, reward: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "one.jsonl", {"prompt": "a", "responses": ["b"], "ranks": [1]})
    line = fails(train.main, *reward, f"data.train={rows}")
    assert "one.jsonl" in line
    assert "line 1" in line


def test_only_ties(fails: Run, reward: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "ties.jsonl", {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 1]})
    line = fails(train.main, *reward, f"data.train={rows}")
    assert "ties.jsonl" in line
    assert "tie" in line


def test_batch_sizes_that_do_not_divide(fails: Run, ppo: list[object], prompts: Path) -> None:
    line = fails(train.main, *ppo, f"data.train={prompts}", "module.minibatch_size=3")
    assert "minibatch_size=3" in line
    assert "rollout_batch_size=4" in line


def test_micro_batch_that_does_not_divide(fails: Run, ppo: list[object], prompts: Path) -> None:
    line = fails(train.main, *ppo, f"data.train={prompts}", "module.minibatch_size=4", "module.micro_batch_size=3")
    assert "micro_batch_size=3" in line
    assert "minibatch_size=4" in line


def test_unknown_override_names_the_nearest_key(fails: Run, ppo: list[object], prompts: Path) -> None:
    line = fails(train.main, *ppo, f"data.train={prompts}", "module.kl_cof=1")
    assert "module.kl_cof" in line
    assert "did you mean module.kl_coef?" in line


def test_unknown_stage_lists_the_stages(fails: Run) -> None:
    line = fails(train.main, "stage=pro")
    assert "ppo pretrain reward sft" in line


def test_missing_value_names_the_key(fails: Run) -> None:
    assert "model.name is needed" in fails(train.main, "stage=sft")


def test_model_that_is_not_there(fails: Run, demonstrations: Path, tmp_path: Path) -> None:
    line = fails(
        train.main, "stage=sft", "model.name=./nowhere", f"data.train={demonstrations}", f"run_dir={tmp_path / 'run'}"
    )
    assert "./nowhere" in line


def test_checkpoint_of_another_model(
    fails: Run,
    sft: list[object],
    demonstrations: Path,
    causal_lm_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, sft), f"data.train={demonstrations}", "data.batch_size=4"])
    train.main()
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    before = checkpoint.read_bytes()
    line = fails(
        train.main,
        "stage=sft",
        f"model.name={causal_lm_folders['gpt2']}",
        f"data.train={demonstrations}",
        f"run_dir={tmp_path / 'other'}",
        f"resume={checkpoint}",
    )
    assert checkpoint.name in line
    assert "another" in line
    assert checkpoint.read_bytes() == before


def test_run_folder_that_holds_a_run_is_not_overwritten(
    fails: Run, sft: list[object], demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, sft), f"data.train={demonstrations}", "data.batch_size=4"])
    train.main()
    model = tmp_path / "run" / "model" / "model.safetensors"
    before = model.read_bytes()
    line = fails(train.main, *sft, f"data.train={demonstrations}")
    assert "resume=auto" in line
    assert model.read_bytes() == before


def test_pipeline_experiment_is_no_training_stage(fails: Run) -> None:
    assert "rlhf-pipeline" in fails(train.main, "stage=sft", "experiment=quickstart")


def test_pipeline_without_its_model_names_the_key(fails: Run, tmp_path: Path) -> None:
    line = fails(pipeline.main, "experiment=stories", f"run_dir={tmp_path / 'run'}")
    assert "model.name is needed" in line
    assert not (tmp_path / "run" / "steps").exists()


def test_collect_wants_two_responses(
    fails: Run, causal_lm_folders: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    line = fails(
        collect.main,
        "labeler=vader",
        f"model.name={causal_lm_folders['llama']}",
        f"prompts={prompts}",
        f"out={tmp_path / 'out.jsonl'}",
        "collect.responses_per_prompt=[1,1]",
    )
    assert "responses_per_prompt=[1, 1]" in line


@pytest.mark.parametrize("main", [train.main, pipeline.main, collect.main])
def test_help_is_readable(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "rlhf-" in text
    assert "experiment" in text or "labeler" in text


def test_the_console_script_itself_exits_with_1_and_shows_a_traceback_when_asked() -> None:
    command = [sys.executable, "-m", "rlhf_lightning.train", "stage=sft"]
    plain = subprocess.run(command, capture_output=True, text=True)
    assert plain.returncode == 1
    assert plain.stderr.startswith("rlhf-train: error: model.name")
    asked = subprocess.run(command, capture_output=True, text=True, env={"HYDRA_FULL_ERROR": "1", "PATH": ""})
    assert asked.returncode == 1
    assert "Traceback" in asked.stderr
