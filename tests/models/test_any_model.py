"""Every architecture, with tied and untied embeddings, with every habit of padding, through all three stages."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder, collate_comparisons, collate_prompts, collate_tokens
from rlhf_lightning.models import (
    RewardModelScorer,
    ScalarModel,
    generate,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule

KINDS = ["gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "bloom"]
HABITS = [("eos", "right"), ("none", "right"), ("own", "left"), ("eos", "left"), ("none", "left"), ("own", "right")]
ALL = list(product(KINDS, (False, True), HABITS))
# Each architecture tied and untied, the habits of padding taken in turn; the whole product is marked slow.
QUICK = [(kind, tied, HABITS[(2 * i + tied) % 3]) for i, kind in enumerate(KINDS) for tied in (False, True)]
PROMPTS = ["hi", "name a cat. it may be a big one", "why", "what is it?", "go", "tell me more", "a", "list two"]
ANSWERS = ["yes", "no, not at all", "ok.", "a big dog"]
Fit = Callable[..., dict[str, float]]


def _cases(cases: list[Any]) -> Any:
    slow = [case for case in ALL if case not in cases]
    return pytest.mark.parametrize(
        ("kind", "tied", "habit"),
        [*cases, *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)],
        ids=lambda value: "-".join(value) if isinstance(value, tuple) else {True: "tied", False: "untied"}.get(value),
    )


def _train_reward_model(fit: Fit, folder: Path, encoder: Encoder) -> ScalarModel:
    rows = [
        {
            "prompt_ids": encoder.prompt(prompt),
            "response_ids": [encoder.response(answer) for answer in (*ANSWERS[:2], "")],
            "pairs": [(0, 1), (1, 2)],
        }
        for prompt in PROMPTS
    ]
    module = RewardModule(
        reward_model=functools.partial(load_scalar_model, name=str(folder), head="new"),
        learning_rate=3e-3,
        schedule="constant",
    )
    found = fit(module, [collate_comparisons(rows, pad_id=encoder.pad_token_id)] * 12)
    assert found["train/accuracy"] >= 0.9
    model: ScalarModel = module.reward_model
    return model.eval()


@_cases(QUICK)
def test_ppo_without_learning_leaves_the_ratio_at_one_and_the_kl_at_zero(
    fit: Fit,
    kind: str,
    tied: bool,
    habit: tuple[str, str],
    model_folder: Callable[..., Path],
    as_trained: Callable[[ScalarModel], ScalarModel],
    tmp_path: Path,
) -> None:
    folder = model_folder(kind, tied=tied, pad=habit[0], side=habit[1])
    encoder = Encoder.from_pretrained(folder)
    save_model_folder(as_trained(load_scalar_model(name=str(folder), head="new")), encoder, tmp_path / "reward")
    module = PPOModule(
        policy=functools.partial(load_causal_lm, name=str(folder)),
        value=functools.partial(load_scalar_model, name=str(tmp_path / "reward")),
        reward=RewardModelScorer(name=str(tmp_path / "reward")),
        encoder=encoder,
        max_new_tokens=12,
        minibatch_size=4,
        micro_batch_size=2,
        epochs=2,
        learning_rate=0.0,
        value_learning_rate=0.0,
    )
    rows = [{"input_ids": encoder.prompt(prompt), "prompt": prompt} for prompt in PROMPTS]
    found = fit(module, [{"prompts": collate_prompts(rows, pad_id=encoder.pad_token_id)}] * 2)
    assert found["train/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["rollout/kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["train/policy_loss"] == found["train/policy_loss"]  # not NaN


@_cases([(kind, tied, habit) for kind, tied, habit in QUICK if tied == (KINDS.index(kind) % 2 == 0)])
def test_sft_on_four_examples_learns_to_end(
    fit: Fit, kind: str, tied: bool, habit: tuple[str, str], model_folder: Callable[..., Path]
) -> None:
    folder = model_folder(kind, tied=tied, pad=habit[0], side=habit[1])
    encoder = Encoder.from_pretrained(folder)
    prompts = [encoder.prompt(prompt) for prompt in PROMPTS[:4]]
    rows = [
        {"input_ids": prompt + encoder.response(answer), "prompt_length": len(prompt)}
        for prompt, answer in zip(prompts, ANSWERS, strict=True)
    ]
    module = SFTModule(policy=functools.partial(load_causal_lm, name=str(folder)), learning_rate=1e-2)
    fit(module, [collate_tokens(rows, pad_id=encoder.pad_token_id)] * 100)
    batch = collate_prompts(
        [{"input_ids": ids, "prompt": text} for ids, text in zip(prompts, PROMPTS, strict=False)] * 4,
        pad_id=encoder.pad_token_id,
    )
    found = generate(
        module.policy,
        batch.input_ids,
        batch.lengths,
        max_new_tokens=24,
        eos_token_id=encoder.eos_token_id,
        pad_token_id=encoder.pad_token_id,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.finished.float().mean() >= 0.9
    texts = [encoder.decode(ids) for ids in found.response_ids]
    assert sum(text in ANSWERS for text in texts) >= 8  # of 16


PLAIN_TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
torch.set_num_threads(1)
found = {}
for name, folder, rows in json.loads(sys.argv[1]):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        scores = [model(torch.tensor([row])).logits.item() for row in rows]
        if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
            batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
            scores += model(**batch).logits.flatten().tolist()
        else:
            scores += scores
    found[name] = scores
assert "rlhf_lightning" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def in_plain_transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Collects exported reward models and what they should give; one process without this package checks them all."""
    jobs: list[tuple[str, str, list[list[int]]]] = []
    expected: dict[str, list[float]] = {}

    def remember(name: str, folder: Path, rows: list[list[int]], scores: torch.Tensor) -> None:
        jobs.append((name, str(folder), rows))
        expected[name] = scores.tolist() * 2  # one row at a time, and as a batch

    yield remember
    run = subprocess.run(
        [sys.executable, "-c", PLAIN_TRANSFORMERS, json.dumps(jobs)],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-5), name


@_cases(QUICK)
def test_scores_of_a_trained_reward_model_depend_on_the_text_alone(
    fit: Fit,
    kind: str,
    tied: bool,
    habit: tuple[str, str],
    model_folder: Callable[..., Path],
    in_plain_transformers: Callable[..., None],
    tmp_path: Path,
) -> None:
    folder = model_folder(kind, tied=tied, pad=habit[0], side=habit[1])
    encoder = Encoder.from_pretrained(folder)
    trained = _train_reward_model(fit, folder, encoder)
    rows = [encoder.prompt(p) + encoder.response(a) for p, a in zip(PROMPTS, ANSWERS * 2, strict=True)]
    with torch.no_grad():
        alone = torch.cat([trained.score(torch.tensor([row]), torch.tensor([len(row)])) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max()) + 3
        for fill in (encoder.pad_token_id, encoder.eos_token_id, 9):
            right = torch.tensor([row + [fill] * (width - len(row)) for row in rows])
            torch.testing.assert_close(trained.score(right, lengths), alone, rtol=0, atol=1e-5)
            left = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
            mask = torch.arange(width) >= width - lengths.unsqueeze(1)
            torch.testing.assert_close(trained(left, mask)[:, -1], alone, rtol=0, atol=1e-5)
    exported = save_model_folder(trained, encoder, tmp_path / "reward")
    scorer = RewardModelScorer(name=str(exported), batch_size=3)
    torch.testing.assert_close(scorer(PROMPTS, ANSWERS * 2), alone, rtol=0, atol=1e-5)
    assert alone.std() > 1e-3
    in_plain_transformers(f"{kind}-{tied}-{habit}", exported, rows, alone)
