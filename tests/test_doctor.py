"""``rlhf-doctor`` from the command line: its table, its exit code, and that it leaves the model alone."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import doctor
from rlhf_lightning.diagnosis import run_of
from rlhf_lightning.models import load_causal_lm
from rlhf_lightning.planning import memory_of

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


PLAN = ("plan=true", "device_memory=80GB", "run.rollout_batch_size=16", "run.minibatch_size=16", "run.new_tokens=8")


@pytest.fixture
def weightless(causal_lm_folders: dict[str, Path], tmp_path: Path) -> str:
    """A folder that holds a configuration and nothing else."""
    (tmp_path / "shape").mkdir()
    shutil.copy(causal_lm_folders["gpt2"] / "config.json", tmp_path / "shape")
    return f"model.name={tmp_path / 'shape'}"


def test_a_plan_needs_no_weights(run: Run, weightless: str) -> None:
    code, printed = run(*PLAN, weightless, "devices=4", "flops=1e9", "bandwidth=1MB")
    assert code == 0, printed
    assert "by role" in printed
    for role in ("policy", "reference", "value", "reward"):
        assert printed.count(f" {role} ") == 3  # one device, replicas, shards
    assert "Cheapest that fits 80GB on 4 device(s): strategy=ddp" in printed


def test_a_plan_that_does_not_fit_says_what_does(run: Run, weightless: str) -> None:
    numbers = {"rollout_batch_size": 16, "minibatch_size": 16, "micro_batch_size": 1, "prompt_tokens": 8}
    policy = functools.partial(load_causal_lm, name=weightless.removeprefix("model.name="))
    planned = run_of(policy, new_tokens=8, **numbers)
    assert planned is not None
    alone, sharded = memory_of(planned).peak, memory_of(planned, "fsdp2", 2).peak
    assert sharded < min(alone, memory_of(planned, "ddp", 2).peak)
    settings = [*PLAN, weightless, *(f"run.{name}={number}" for name, number in numbers.items())]
    settings.append(f"device_memory={sharded}")
    code, printed = run(*settings, "devices=2")
    assert code == 1, printed
    assert "on 2 device(s): strategy=fsdp2" in printed
    assert run(*settings, "devices=2", "strategy=fsdp2")[0] == 0
    code, printed = run(*settings)
    assert code == 1
    assert "on 1 device(s); strategy=fsdp2 on 2 would" in printed
    code, printed = run(*settings, "device_memory=1KB", "strategy=fsdp2", "devices=2")
    assert code == 1
    assert "Nothing fits 1KB on 2 device(s); try" in printed


def test_a_plan_does_not_recommend_what_is_refused(run: Run, weightless: str) -> None:
    quantised = ("model/lora=default", "model/quantization=nf4")
    code, printed = run(*PLAN, weightless, *quantised, "devices=2", "device_memory=1KB")
    assert code == 1
    assert "fsdp2 is not possible: the packed weights" in printed
    assert "strategy=fsdp2 on" not in printed
    assert printed.count("refused") == 4  # on 2, 4, 8 and 16 devices


def test_a_plan_shards_adapters(run: Run, weightless: str) -> None:
    code, printed = run(*PLAN, weightless, "model/lora=default", "strategy=fsdp2", "devices=2", "device_memory=1GB")
    assert code == 0
    assert "refused" not in printed and "not possible" not in printed


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("devices=0", "devices=0 must be a whole number of at least 1, such as devices=8"),
        ("nodes=two", "nodes=two must be a whole number"),
        ("device_memory=80 apples", "device_memory=80 apples is no size; write it as device_memory=80GB"),
        ("device_memory=null", "plan=true needs device_memory"),
        ("strategy=fdsp2", "Could not find 'strategy/fdsp2'"),
        ("strategy=fsdp", "strategy=fsdp is not possible"),
        ("devices=3", "run.minibatch_size=16 cannot be shared by 3 devices"),
        ("flops=1e12", "flops and bandwidth are given together"),
        ("run.epochs=0", "run.epochs=0 must be at least 1"),
    ],
)
def test_mistakes_in_a_plan(run: Run, weightless: str, argument: str, found: str) -> None:
    code, printed = run(*PLAN, weightless, argument)
    assert code == 1
    assert found in printed
    assert "Traceback" not in printed
