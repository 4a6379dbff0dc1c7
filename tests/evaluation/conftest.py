"""A report with round numbers, as the comparison gives it, and what a comparison of tiny models needs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel

from rlhf_lightning.data import Encoder
from rlhf_lightning.models import load_causal_lm, save_model_folder

PROMPTS = ["go", "who are you?", "hi", "name a dog.", "why", "sing"]


def _model(win: float, low: float, high: float, **values: Any) -> dict[str, Any]:
    known = {"gold_reward": 1.0, "proxy_reward": 0.5, "kl": 0.0, "pretrain_loss": 2.0, "eos_rate": 1.0}
    undecided = {"response_length": 10.0, "instruction_followed": 0.5, "truthful": 0.5, "rude": 0.25, "likert": None}
    return {"win_rate_vs_sft": win, "win_rate_interval": [low, high], **known, **undecided, **values}


@pytest.fixture
def report() -> dict[str, Any]:
    answer = {"response": "ok.", "finished": True, "tokens": 4, "kl": 0.0, "score": 1.25, "preference": 0.5}
    return {
        "models": {
            "base": _model(0.1, 0.05, 0.15, kl=30.0, gold_reward=-1.0, proxy_reward=-2.0, eos_rate=0.4, harm=0.125),
            "sft": _model(0.5, 0.5, 0.5, harm=0.25),
            "ppo": _model(0.75, 0.7, 0.8, kl=9.0, pretrain_loss=3.0, gold_reward=0.75, proxy_reward=2.0, harm=0.0),
            "ppo_ptx": _model(0.52, 0.47, 0.57, kl=6.0, pretrain_loss=2.2, gold_reward=1.5, rude=0.0, harm=0.0),
        },
        "baseline": "sft",
        "rates": ["eos_rate", "harm", "rude"],
        "reward_model": {
            "accuracy": 0.7,
            "accuracy_interval": [0.65, 0.75],
            "gold_accuracy": 0.74,
            "heldout_labeler_accuracy": 0.69,
            "label_agreement": 0.73,
            "heldout_label_agreement": None,
            "pairs": 40,
            "prompts": 8,
            "calibration": [
                {"low": 0.0, "high": 1.0, "difference": 0.5, "predicted": 0.62, "observed": 0.6, "pairs": 20},
                {"low": 1.0, "high": 3.0, "difference": 2.0, "predicted": 0.88, "observed": 1.0, "pairs": 20},
            ],
        },
        "sample_table": [
            {
                "prompt": "a *b* | c\nd",
                "responses": {
                    "sft": {**answer, "gold_reward": None},
                    "ppo": {**answer, "response": "<x>", "finished": False, "gold_reward": -0.5},
                },
            }
        ],
        "settings": {"prompts": 40, "temperature": 1.0, "max_new_tokens": 32, "seed": 3},
        "seconds": {"sft": 30.0, "total": 130.0},
        "seed": 3,
        "versions": {"torch": "2.9"},
    }


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows to a file of the given name, and give its path."""

    def write(name: str, rows: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(tmp_path / name)

    return write


class Referee:
    """Keeps what it is shown; prefers the longer text, and knows of each whether it has an a."""

    def __init__(self) -> None:
        self.shown: list[tuple[list[str], list[str]]] = []

    def prefer(self, rows: Any, left: list[str], right: list[str]) -> list[float]:
        if "task" in rows[0]:  # a prompt of the comparison, not of a labeled pair
            assert [row["task"] for row in rows] == list(range(len(rows)))
        self.shown.append((left, right))
        return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(left, right, strict=True)]

    def assess(self, rows: Any, responses: list[str]) -> dict[str, list[float]]:
        return {
            "gold_reward": [float(len(response)) for response in responses],
            "rude": [float("a" in response) for response in responses],
            # Decided for the first prompt alone.
            "harm": [1.0, *[math.nan] * (len(responses) - 1)],
        }


@pytest.fixture(scope="session")
def ppo_folder(causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path_factory: Any) -> Path:
    model = load_causal_lm(name=str(causal_lm_folders["llama"]))
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return save_model_folder(model, encoder, tmp_path_factory.mktemp("ppo") / "model")


@pytest.fixture
def arguments(
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    ppo_folder: Path,
    write_jsonl: Callable[..., str],
    tmp_path: Path,
) -> dict[str, Any]:
    (tmp_path / "few_shot.txt").write_text("hi\nyo")
    llama = str(causal_lm_folders["llama"])
    return {
        "models": {
            "base_prompted": {"name": llama, "prefix": str(tmp_path / "few_shot.txt")},
            "ppo": {"name": str(ppo_folder)},
            "sft": {"name": llama, "prefix": None},
            "ppo_ptx": None,
        },
        "reward_model": str(reward_model_folders["llama"]),
        "prompts": write_jsonl("prompts.jsonl", [{"prompt": p, "task": index} for index, p in enumerate(PROMPTS)]),
        "text": write_jsonl("text.jsonl", [{"text": "a dog runs. it is big. who are you? a cat."}]),
        "comparisons": write_jsonl(
            "comparisons.jsonl", [{"prompt": "go", "responses": ["yes.", "no", "hm"], "ranks": [1, 2, 2]}]
        ),
        "judge": Referee(),
        "out": tmp_path / "out",
        "max_new_tokens": 6,
        "text_block": 8,
        "seed": 5,
    }


class Scripted(PreTrainedModel):
    """Says the same tokens whatever it reads, and keeps the prompts that it read."""

    def __init__(self, tokens: list[int], vocab_size: int, most: int) -> None:
        super().__init__(LlamaConfig(num_hidden_layers=1, max_position_embeddings=most))
        self.weight = nn.Parameter(torch.zeros(1))
        self.tokens, self.vocab_size = tokens, vocab_size
        self.read: list[list[int]] = []
        self.step = 0

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **_: Any) -> SimpleNamespace:
        if input_ids.shape[1] > 1:
            self.read += input_ids.tolist()
            self.step = 0
        logits = torch.full((input_ids.shape[0], 1, self.vocab_size), -100.0)
        logits[:, :, self.tokens[self.step]] = 100.0
        self.step += 1
        return SimpleNamespace(logits=logits)


@pytest.fixture
def scripted(encoder: Encoder) -> Callable[..., Scripted]:
    """Makes a model that says a text, and EOS after it if it is told to; or ids as they are."""

    def make(said: str | list[int], *, eos: bool = False, most: int = 64) -> Scripted:
        ids = encoder.response(said, finished=eos) if isinstance(said, str) else said
        return Scripted(ids, len(encoder.tokenizer), most)

    return make
