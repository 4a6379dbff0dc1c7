"""Tasks of lm-evaluation-harness: their figures by hand, kept answers, few-shot, and mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks import Measured, Task, evaluate_benchmarks, harness, hellaswag, read_samples
from rlhf_lightning.evaluation.benchmarks.harness.task import LOCAL
from rlhf_lightning.models import load_causal_lm

ROWS = [
    {"ctx": "a dog", "endings": ["runs.", "is a cat."], "label": 0},
    {"ctx": "who are", "endings": ["you?", "we all are there", "no"], "label": 2},
    {"ctx": "the sea is", "endings": ["big.", "a dog."], "label": 1},
]


@pytest.fixture
def endings(tmp_path: Path) -> str:
    return _written(tmp_path / "hellaswag.jsonl", ROWS)


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _logprob(folder: Path, encoder: Encoder, context: str, choice: str) -> float:
    """From one forward pass over the text, without anything of the package's evaluation or of the harness."""
    model = load_causal_lm(name=str(folder))
    tokenizer = encoder.tokenizer
    first = tokenizer(context)["input_ids"]
    both = tokenizer(f"{context} {choice}")["input_ids"]
    assert both[: len(first)] == first
    with torch.no_grad():
        logprobs = model(torch.tensor([both])).logits[0].log_softmax(-1)
    return sum(float(logprobs[place - 1, both[place]]) for place in range(len(first), len(both)))


def _run(tasks: list[Task], models: dict[str, Any], out: Path) -> dict[str, Any]:
    return evaluate_benchmarks(models=models, benchmarks=tasks, out=out, batch_size=2)


def test_accuracy_is_that_of_the_model_s_own_logprobs(
    causal_lm_folders: dict[str, Path], encoder: Encoder, endings: str, tmp_path: Path
) -> None:
    folder = causal_lm_folders["llama"]
    instruction = "Complete each independent paragraph using common-sense reasoning.\n\n"
    total, by_byte = [], []
    for row in ROWS:
        scores = [_logprob(folder, encoder, instruction + row["ctx"], choice) for choice in row["endings"]]
        total.append(float(max(range(len(scores)), key=scores.__getitem__) == row["label"]))
        by_byte.append(
            float(max(range(len(scores)), key=lambda n: scores[n] / len(row["endings"][n])) == row["label"])
        )
    assert 0 < sum(total) < 3 or 0 < sum(by_byte) < 3  # else a constant would do
    report = _run([harness(task="local_hellaswag", file=endings)], {"base": {"name": str(folder)}}, tmp_path / "out")
    found = report["benchmarks"]["local_hellaswag"]
    assert (found["rows"], found["available"], found["metric"], found["higher_is_better"]) == (3, 3, "acc", True)
    figures = found["results"]["0-shot"]["base"]
    assert figures["acc"]["value"] == pytest.approx(sum(total) / 3)
    assert figures["acc_norm"]["value"] == pytest.approx(sum(by_byte) / 3)
    low, high = figures["acc"]["interval"]
    assert low < figures["acc"]["value"] < high
    samples = read_samples(report["samples"]["local_hellaswag"])
    assert [float(row["acc"]) for row in samples] == total
    assert [row["target"] for row in samples] == ["0", "2", "1"]
