"""``callbacks=[...,compiled_passes]`` from the command line, with a real compiler."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning import train

ONE = ["data.iterations=1"]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("sft", []),
        ("sft", ["model/lora=default", "trainer.precision=bf16-mixed"]),
        ("reward", ["module.share_prompt=true"]),
        (
            "ppo",
            ["data.rollout_batch_size=8", "module.minibatch_size=4", "module.max_new_tokens=6", "data.iterations=2"],
        ),
    ],
)
def test_a_stage_trains_as_it_does_without(
    example_folder: Path,
    reward_model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    options: list[str],
) -> None:
    monkeypatch.chdir(example_folder)
    rows = {"sft": "demonstrations", "reward": "comparisons", "ppo": "prompts"}[stage]
    common = ["data.batch_size=4"] if stage != "ppo" else [f"module.reward.name={reward_model_folders['llama']}"]
    found: list[dict[str, Any]] = []
    for name, callbacks in (("plain", f"[{stage}]"), ("compiled", f"[{stage},compiled_passes]")):
        arguments = [
            f"stage={stage}",
            "model.name=base",
            f"data.train={rows}.jsonl",
            f"callbacks={callbacks}",
            f"run_dir={name}",
            "module.learning_rate=1e-3",
            "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false",
            *common,
            *options,
        ]
        monkeypatch.setattr(sys, "argv", ["rlhf-train", *arguments])
        train.main()
        found.append(json.loads(Path(name, "metrics.json").read_text()))
    assert set(found[0]) == set(found[1])
    exact = "trainer.precision=bf16-mixed" not in options
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-3 if exact else 5e-2, abs=1e-4 if exact else 5e-2), name
