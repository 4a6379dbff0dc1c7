"""``rlhf-doctor`` from the command line: its table, its exit code, and that it leaves the model alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import doctor

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The exit code and what was printed."""

    def start(*arguments: object) -> tuple[int, str]:
        settings = ["accelerator=cpu", f"hydra.run.dir={tmp_path / 'log'}", *arguments]
        monkeypatch.setattr(sys, "argv", ["rlhf-doctor", *(str(argument) for argument in settings)])
        code = 0
        try:
            doctor.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return start


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_good_model(run: Run, causal_lm_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = causal_lm_folders["llama"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "say hi", "response": "hi there"}\n' * 4)
    before = digest(folder)
    code, printed = run(
        f"model.name={folder}",
        "model/lora=default",
        "run.roles=shared",
        "run.rollout_batch_size=8",
        "data=demonstrations",
        f"data.train={rows}",
    )
    assert code == 0, printed
    assert "8 passed, 0 failed, 2 skipped" in printed
    assert "Memory of ppo by role" in printed
    assert digest(folder) == before


def test_a_failed_check_gives_exit_code_1(run: Run, causal_lm_folders: dict[str, Path]) -> None:
    folder = causal_lm_folders["gpt2"]
    code, printed = run(f"model.name={folder}", f"reward={folder}", "run.rollout_batch_size=8")
    assert code == 1
    assert "no score head" in printed
    assert "1 failed" in printed


def test_prompts_need_no_number_of_iterations(run: Run, causal_lm_folders: dict[str, Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a" * 40}) + "\n")
    options = [f"model.name={causal_lm_folders['llama']}", "data=prompts", f"data.train={prompts}"]
    code, printed = run(*options, "run.rollout_batch_size=8", "run.new_tokens=24")
    assert code == 0, printed
    code, printed = run(*options, "run.rollout_batch_size=8", "run.new_tokens=25")
    assert code == 1
    assert "too long" in printed


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("run.stage=dpo", "run.stage='dpo'"),
        ("run.roles=shared", "model/lora=default"),
        ("accelerator=tpu", "accelerator='tpu'"),
        ("run.stages=ppo", "did you mean run.stage"),
    ],
)
def test_mistakes_in_the_command(run: Run, causal_lm_folders: dict[str, Path], argument: str, found: str) -> None:
    settings = [f"model.name={causal_lm_folders['llama']}", argument]
    code, printed = run(*settings)
    assert code == 1
    assert found in printed


def test_a_model_is_needed(run: Run) -> None:
    code, printed = run()
    assert code == 1
    assert "model.name is needed" in printed
