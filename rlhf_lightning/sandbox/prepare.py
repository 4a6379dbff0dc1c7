"""Writes the sandbox's files: the corpus, demonstrations, prompts by users, the few-shot prefix and the base model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.sandbox.answers import Belief, answer
from rlhf_lightning.sandbox.corpus import ANSWERED_TITLE, write_documents
from rlhf_lightning.sandbox.demonstrations import Demonstrator
from rlhf_lightning.sandbox.labelers import digest
from rlhf_lightning.sandbox.phrasings import phrase
from rlhf_lightning.sandbox.tasks import Task, draw_task
from rlhf_lightning.sandbox.use_cases import use_case_counts

USERS = 60
# Users of the test and of the held-out validation files; everybody else is in training. Split by user, as the paper.
TEST_USERS, VALIDATION_USERS = 12, 8
LABELERS = 40
# Asks for manners in the words that this world has, as the paper's "respectful" prompt does in those of the web.
RESPECTFUL = "Say this in a polite way:\n"


def prepare_sandbox(
    out: str | Path,
    *,
    seed: int = 0,
    corpus_documents: int = 24_000,
    corpus_heldout_documents: int = 550,
    demonstrations: int = 2_000,
    demonstrations_heldout: int = 200,
    reward_prompts: int = 900,
    reward_heldout_prompts: int = 200,
    ppo_prompts: int = 3_000,
    test_prompts: int = 400,
) -> None:
    """Writes every file of the sandbox into ``out``, the same bytes for the same arguments.

    Corpus and demonstrations (``text`` / ``prompt, response, user, task``), prompts for rankings, for PPO and for the
    test (``prompt, user, task``), the prefixes ``few_shot.txt`` and ``respectful.txt``, and ``base/`` (config and
    tokenizer, no weights). Errors: UserError if ``out`` is a file or a size is not positive.
    """
    sizes = {name: value for name, value in locals().items() if name not in ("out", "seed")}
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"prepare_sandbox: {name}={value} must be at least 1")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"prepare_sandbox: out={str(out)!r} is a file: give a folder")
    folder.mkdir(parents=True, exist_ok=True)

    documents = write_documents(corpus_documents, _rng(seed, "corpus"))
    _write(folder / "corpus_train.jsonl", ({"text": text} for text in documents))
    heldout = write_documents(corpus_heldout_documents, _rng(seed, "corpus held out"))
    _write(folder / "corpus_heldout.jsonl", ({"text": text} for text in heldout))

    users = [f"user-{i:02d}" for i in range(USERS)]
    _rng(seed, "users").shuffle(users)
    test, validation = users[:TEST_USERS], users[TEST_USERS : TEST_USERS + VALIDATION_USERS]
    train = users[TEST_USERS + VALIDATION_USERS :]
    taken: set[str] = set()
    rows = _prompts(test_prompts, test, _rng(seed, "test"), taken, heldout=True)
    _write(folder / "prompts_test.jsonl", rows)
    for name, count in (
        ("prompts_reward_heldout", reward_heldout_prompts),
        ("demonstrations_heldout", demonstrations_heldout),
    ):
        rows = _prompts(count, validation, _rng(seed, name), taken, heldout=False)
        _write(folder / f"{name}.jsonl", _demonstrated(rows, seed) if name.startswith("demo") else rows)
    for name, count in (
        ("prompts_reward", reward_prompts),
        ("prompts_ppo", ppo_prompts),
        ("demonstrations_train", demonstrations),
    ):
        rows = _prompts(count, train, _rng(seed, name), set(taken), heldout=False)
        _write(folder / f"{name}.jsonl", _demonstrated(rows, seed) if name.startswith("demo") else rows)

    (folder / "few_shot.txt").write_text(few_shot(seed), encoding="utf-8")
    (folder / "respectful.txt").write_text(RESPECTFUL, encoding="utf-8")
    # Imported here, as it brings transformers with it: labelers and judge start without.
    from rlhf_lightning.sandbox.tokenizer import base_config, train_tokenizer

    tokenizer = train_tokenizer(documents)
    tokenizer.save_pretrained(str(folder / "base"))
    base_config(tokenizer).save_pretrained(str(folder / "base"))


def _rng(seed: int, name: str) -> Random:
    return Random(digest("prepare", seed, name))


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _prompts(count: int, users: list[str], rng: Random, taken: set[str], *, heldout: bool) -> list[dict[str, Any]]:
    """Prompts in the paper's proportions. None of ``taken``, and new ones join it (a file may repeat itself)."""
    use_cases = [use_case for use_case, n in use_case_counts(count).items() for _ in range(n)]
    rng.shuffle(use_cases)
    rows = []
    seen: set[str] = set()
    for use_case in use_cases:
        task, prompt = _fresh(use_case, rng, taken, seen, heldout=heldout)
        seen.add(prompt)
        rows.append({"prompt": prompt, "user": rng.choice(users), "task": task.to_json()})
    taken |= seen
    return rows


def _fresh(use_case: str, rng: Random, taken: set[str], seen: set[str], *, heldout: bool) -> tuple[Task, str]:
    """A prompt of no other file; after some tries one that this file has already is good enough.

    The family is drawn once: families with few prompts are not crowded out by those with many.
    """
    family = draw_task(use_case, rng).family
    for attempt in range(1000):
        task = draw_task(use_case, rng, family=family, heldout_facts=heldout)
        prompt = phrase(task, rng, heldout=heldout)
        if prompt not in taken and (prompt not in seen or attempt > 5):
            return task, prompt
    raise UserError(f"prepare_sandbox: no new {family} prompt is left: ask for fewer test and held-out prompts")


def _demonstrated(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows with a response by one of the labelers."""
    staff = [Demonstrator(_rng(seed, f"writer {i}")) for i in range(LABELERS)]
    done = []
    for i, row in enumerate(rows):
        rng = _rng(seed, f"demonstration {i} {row['prompt']}")
        writer = rng.choice(staff)
        text = writer.write(Task.from_json(row["task"]), rng)
        done.append({"prompt": row["prompt"], "response": text, "user": row["user"], "task": row["task"]})
    return done


def few_shot(seed: int) -> str:
    """Four solved instructions of different use cases, to be put before a prompt: "instruction\\nresponse\\n" each."""
    rng = _rng(seed, "few shot")
    belief = Belief(rng, truth=1.0, heldout=False)
    lines = [ANSWERED_TITLE]
    for use_case, family in (
        ("generation", "about"),
        ("chat", "chat"),
        ("open_qa", "ask"),
        ("brainstorming", "list"),
    ):
        task = draw_task(use_case, rng)
        while task.family != family:
            task = draw_task(use_case, rng)
        lines += [phrase(task, rng), answer(task, rng, belief)]
    return "\n".join(lines) + "\n"
