"""The examples of the guide, each in a process of its own that finds nothing but what the guide speaks of."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "GUIDE.md").read_text()
EXAMPLES = {
    part[0]: re.findall(r"```(\w+)\n(.*?)```", part, flags=re.DOTALL)
    for part in re.split(r"^### (?=[a-z]\. )", GUIDE, flags=re.MULTILINE)[1:]
}


@pytest.fixture
def run_example(example_folder: Path) -> Callable[..., Path]:
    """Write the files of an example, run it with lines that look at what it made, and return its folder."""

    def run(letter: str, check: str = "") -> Path:
        commands, script = [], ""
        for language, text in EXAMPLES[letter]:
            named = re.match(r"# (\S+\.\w+)\n", text)
            if named:
                path = example_folder / named[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif language == "python":
                script += text
            else:
                assert language == "sh" and text.startswith("python ")
                commands.append([sys.executable, *shlex.split(text)[1:]])
        if script:
            commands.append([sys.executable, "-c", f"{script}\n{check}"])
        assert len(commands) == 1
        done = subprocess.run(
            commands[0],
            cwd=example_folder,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return example_folder

    return run


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_the_examples_are_these() -> None:
    assert list(EXAMPLES) == list("abcdefg")


def test_modules_in_a_foreign_trainer(run_example: Callable[..., Path]) -> None:
    folder = run_example("a", "import sys; assert 'hydra' not in sys.modules")
    for name, metric in (("sft", "train/loss"), ("reward", "train/accuracy"), ("ppo", "rollout/score")):
        rows = rows_of(folder / "logs" / name)
        assert any(row[metric] for row in rows), name
        assert any(key.startswith("lr-") for key in rows[0]), name  # of the foreign callback
        assert list((folder / "checkpoints" / name).glob("*.ckpt")), name
    saved = torch.load(next((folder / "checkpoints" / "sft").glob("*.ckpt")), weights_only=True)["state_dict"]
    exported = AutoModelForCausalLM.from_pretrained(folder / "sft").state_dict()
    assert all(torch.equal(exported[name.removeprefix("policy.")], weight) for name, weight in saved.items())


def test_a_policy_of_ones_own(run_example: Callable[..., Path]) -> None:
    folder = run_example("b", "assert ppo.iterations == 2 and type(ppo.policy) is type(ppo.reference) is Recurrent")
    saved = torch.load(folder / "own.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"policy", "value"}


def test_a_reward_that_is_a_function(run_example: Callable[..., Path]) -> None:
    run_example(
        "c",
        "score = float(trainer.callback_metrics['rollout/score'])\n"
        "assert brief_and_ended(['x'], ['abc'], [True]) == [0.7] and -0.8 <= score <= 1.0, score",
    )


def test_one_method_changes_the_algorithm(run_example: Callable[..., Path]) -> None:
    check = """
import torch
assert trainer.callback_metrics["train/policy_loss"].isfinite()
assert ppo.value is None and ppo.hparams["group_size"] == 4 and "policy" not in ppo.hparams
# Two prompts, four responses each; the rewards stand on the last tokens. By hand: the first group's mean is 2 and its
# standard deviation sqrt(10/3), the second's 0.
rewards = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0], [0.0, 0.0]] + [[0.0, 5.0]] * 4)
mask = torch.tensor([[True, True], [True, True], [True, False], [True, True]] + [[True, True]] * 4)
advantages, _ = ppo.advantages(rewards, torch.zeros(8, 2), mask)
deviation = (10 / 3) ** 0.5
expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [2.0, 0.0], [-2.0, -2.0]]) / deviation
assert torch.allclose(advantages[:4], expected, atol=1e-5), advantages
assert not advantages[4:].any()
bonus = WithEntropyBonus(**options)
trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(bonus, data)
metrics = trainer.callback_metrics
assert 0 < float(metrics["train/entropy"]) < 3.6 and abs(float(metrics["train/ratio"]) - 1) < 1e-5
"""
    run_example("d", check)
    grpo = next(text for _, text in EXAMPLES["d"])
    assert len(re.findall(r"class GRPO.*?(?=\n\n\n)", grpo, flags=re.DOTALL)[0].splitlines()) < 30


def test_our_callbacks_on_a_foreign_module(run_example: Callable[..., Path]) -> None:
    check = "assert {'rollout/entropy', 'rollout/unique'} <= trainer.callback_metrics.keys()"
    folder = run_example("e", check)
    assert json.loads((folder / "samples.jsonl").read_text().splitlines()[0])["iteration"] == 1
    AutoModelForCausalLM.from_pretrained(folder / "model")


def test_a_foreign_hydra_project(run_example: Callable[..., Path]) -> None:
    folder = run_example("f") / "runs" / "mine"
    (checkpoint,) = folder.glob("checkpoints/*.ckpt")
    (state,) = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    assert all(group["momentum"] == 0.5 for group in state["param_groups"])
    AutoModelForCausalLM.from_pretrained(folder / "model")


def test_lightning_cli(run_example: Callable[..., Path]) -> None:
    folder = run_example("g")
    (checkpoint,) = folder.rglob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["ppo"]["iterations"] == 2 and saved["ppo"]["kl_coef"] == 0.05
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"policy", "value"}
