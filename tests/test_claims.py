"""The claims of the quickstart and of the stories, run in full: minutes each, under `-m slow`.

python -m pytest -m slow tests/test_claims.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning import pipeline

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RLHF_SHARED", ROOT.parent / "shared"))

pytestmark = pytest.mark.slow


def run(monkeypatch: pytest.MonkeyPatch, run_dir: Path, *overrides: str) -> dict[str, Any]:
    arguments = ["script", f"run_dir={run_dir}", "progress_bar=false", *overrides]
    monkeypatch.setattr(sys, "argv", arguments)
    pipeline.main()
    report: dict[str, Any] = json.loads((run_dir / "report.json").read_text())
    return report


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(monkeypatch, tmp_path, "experiment=quickstart", f"seed={seed}")
    models, reward = report["models"], report["reward_model"]
    sft, ppo, ptx = models["sft"], models["ppo"], models["ppo_ptx"]
    wins = [models[name]["win_rate_vs_sft"] for name in ("ppo_ptx", "base_prompted", "base")]
    assert report["settings"]["prompts"] >= 300
    assert wins[0] >= 0.70
    assert wins[0] > wins[1] > wins[2]
    assert reward["accuracy"] >= reward["gold_accuracy"] - 0.05
    assert ptx["truthful"] > sft["truthful"]
    assert ptx["instruction_followed"] > sft["instruction_followed"]
    assert ptx["rude"] < sft["rude"]
    rise = ppo["pretrain_loss"] - sft["pretrain_loss"]
    assert rise > 0
    assert ppo["pretrain_loss"] - ptx["pretrain_loss"] >= 0.8 * rise


@pytest.mark.shared_data
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stories(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = SHARED / "models" / "stories260k", SHARED / "data" / "pretrain" / "tinystories_944k.txt"
    if not model.is_dir() or not text.is_file():
        pytest.skip(f"no real model and text in {SHARED}; set RLHF_SHARED to their folder")
    named = [f"model.name={model}", f"data.text={text}"]
    report = run(monkeypatch, tmp_path, "experiment=stories", f"seed={seed}", *named)
    models = report["models"]
    sft, ppo, ptx = models["sft"], models["ppo"], models["ppo_ptx"]
    assert report["reward_model"]["accuracy"] >= 0.70
    assert ptx["gold_reward"] >= sft["gold_reward"] + 0.30
    assert ptx["eos_rate"] >= 0.90
    assert ptx["pretrain_loss"] <= sft["pretrain_loss"]
    assert ppo["pretrain_loss"] >= ptx["pretrain_loss"] + 0.3
