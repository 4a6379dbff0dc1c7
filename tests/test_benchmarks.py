"""The benchmark scripts run on any model folder and print their table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "benchmarks"


def test_ppo_iteration_prints_seconds_and_tokens_per_second_of_every_phase(
    causal_lm_folders: dict[str, Path], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("hi", "why", "a cat", "go")))
    options = ["--episodes", "4", "--minibatch", "2", "--max-new-tokens", "5", "--iterations", "3", "--threads", "1"]
    done = subprocess.run(
        [
            sys.executable,
            SCRIPTS / "ppo_iteration.py",
            "--model",
            causal_lm_folders["llama"],
            "--prompts",
            prompts,
            *options,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    cells = {row[0]: row[1:] for line in done.stdout.splitlines() if len(row := line.strip(" │").split("│")) == 4}
    cells = {name.strip(): [cell.strip() for cell in row] for name, row in cells.items()}
    assert list(cells) == ["rollout", "score", "evaluate", "advantages", "update", "iteration"]
    seconds = {name: float(row[0]) for name, row in cells.items()}
    assert 0 < seconds["rollout"] < seconds["iteration"]
    assert 0 < seconds["update"] < seconds["iteration"]
    assert "of 5 tokens" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["separate, full", "SFT, full", "reward, full"])
def test_the_memory_plan_is_within_15_percent_of_what_training_gpt2_takes(setup: str) -> None:
    """124M random weights on a CPU; PPO with four full models, and the two other stages."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "memory.py", "--architecture", "gpt2", "--only", setup],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["estimate"] == pytest.approx(found["peak"] - found["idle"], rel=0.15)
