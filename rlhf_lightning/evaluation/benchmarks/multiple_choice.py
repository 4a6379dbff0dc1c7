"""Multiple choice by probability: HellaSwag, RTE and SST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.completion import Example, completion_task
from rlhf_lightning.evaluation.benchmarks.rows import Row, read_rows, text_of
from rlhf_lightning.evaluation.benchmarks.task import Chosen, Measured, Question, Task
from rlhf_lightning.evaluation.metrics import likeliest

HELLASWAG = "Complete each independent paragraph using common-sense reasoning."
SST = "For each snippet of text, label the sentiment of the text as positive or negative."


def hellaswag(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 15,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    name: str = "hellaswag",
) -> Task:
    """HellaSwag (Zellers et al. 2019), accuracy: the ending with the highest mean log-probability per token.

    Args:
        file: rows with ctx, endings (a list) and label (its index).
        shots: solved examples in the same form, for the few-shot prompt; without it the prompt is zero-shot alone.
        num_shots: of them in the few-shot prompt.
        limit, seed: so many questions, drawn.
        prompt_types: of "zeroshot", "fewshot".
        name: in the report.
    """
    return _by_choice(
        "HellaSwag", HELLASWAG, hellaswag_examples, name=name, file=file, shots=shots, num_shots=num_shots, limit=limit,
        seed=seed, prompt_types=prompt_types,
    )  # fmt: skip


def rte(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 15,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    name: str = "rte",
) -> Task:
    """RTE, accuracy of Yes against No.

    Args:
        file: rows with premise and hypothesis (SuperGLUE) or sentence1 and sentence2 (GLUE), and label: 0 or
            "entailment", 1 or "not_entailment".
        shots, num_shots, limit, seed, prompt_types, name: as in :func:`hellaswag`.
    """
    return _by_choice(
        "RTE", "", rte_examples, name=name, file=file, shots=shots, num_shots=num_shots, limit=limit,
        seed=seed, prompt_types=prompt_types,
    )  # fmt: skip


def sst(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 15,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    name: str = "sst",
) -> Task:
    """SST-2 (Socher et al. 2013), accuracy of positive against negative.

    Args:
        file: rows with sentence and label: 1 or 0.
        shots, num_shots, limit, seed, prompt_types, name: as in :func:`hellaswag`.
    """
    return _by_choice(
        "SST-2", SST, sst_examples, name=name, file=file, shots=shots, num_shots=num_shots, limit=limit,
        seed=seed, prompt_types=prompt_types,
    )  # fmt: skip


def _by_choice(title: str, instruction: str, examples: Callable[..., list[Example]], **given: Any) -> Task:
    return completion_task(
        title=title, instruction=instruction, read=partial(examples, given["name"]), max_new_tokens=None,
        metric="accuracy", unit="share of right answers", measure=_measure, **given,
    )  # fmt: skip


def hellaswag_examples(name: str, path: str | Path, key: str) -> list[Example]:
    """The rows of a file for :func:`hellaswag`, which came by the argument ``key``."""
    return [
        _example(name, path, n, text_of(name, path, row, "ctx", n).strip(), _list(name, path, n, row), row["label"])
        for n, row in enumerate(read_rows(name, path, ("ctx", "endings", "label"), key=key), 1)
    ]


def rte_examples(name: str, path: str | Path, key: str) -> list[Example]:
    """The rows of a file for :func:`rte`."""
    forms = ("premise", "hypothesis"), ("sentence1", "sentence2")
    rows = read_rows(name, path, *((*form, "label") for form in forms), key=key)
    columns = forms[0] if forms[0][0] in rows[0] else forms[1]

    def one(number: int, row: Row) -> Example:
        passage, claim = (text_of(name, path, row, column, number).strip() for column in columns)
        question = f"From this passage can one reasonably conclude that {claim.rstrip('.')}?"
        label = {"entailment": 0, "not_entailment": 1}.get(str(row["label"]), row["label"])
        context = f"Passage: {passage}\nQuestion: {question}\nAnswer:"
        return _example(name, path, number, context, ["Yes", "No"], label)

    return [one(number, row) for number, row in enumerate(rows, 1)]


def sst_examples(name: str, path: str | Path, key: str) -> list[Example]:
    """The rows of a file for :func:`sst`."""
    return [
        _example(
            name, path, n, f"Text: {text_of(name, path, row, 'sentence', n).strip()}\nLabel:",
            ["negative", "positive"], row["label"],
        )
        for n, row in enumerate(read_rows(name, path, ("sentence", "label"), key=key), 1)
    ]  # fmt: skip


def _example(name: str, file: str | Path, number: int, context: str, choices: Sequence[str], label: object) -> Example:
    try:
        right = int(str(label))
        answer = choices[right] if right >= 0 else None
    except (ValueError, IndexError):
        answer = None
    if answer is None:
        raise UserError(
            f"{file}, row {number}: label={label!r} is the place of none of {len(choices)} choices, for "
            f"benchmarks.{name}; -1 marks a test set without labels"
        )
    texts = tuple(f" {choice.strip()}" for choice in choices)
    return Example(context, (answer,), str(number), {"label": right}, texts)


def _measure(questions: Sequence[Question], chosen: Chosen) -> Measured:
    picks = [likeliest([c.logprob for c in choices], [c.tokens for c in choices]) for choices in chosen]
    right = [float(pick == q.extra["label"]) for pick, q in zip(picks, questions, strict=True)]
    samples = [q.choices[pick].strip() for pick, q in zip(picks, questions, strict=True)]
    return Measured({"accuracy": right}, columns={"sample": samples, "correct": right})


def _list(name: str, path: str | Path, n: int, row: Row) -> list[str]:
    """The endings of a row; a table without lists, such as CSV, has text there, whose letters are no endings."""
    endings = row["endings"]
    if not isinstance(endings, list) or not endings or not all(isinstance(one, str) for one in endings):
        raise UserError(
            f"{name}: row {n} of {path} has endings={endings!r:.60}, which is no list of texts; give rows of JSON, "
            'such as {"ctx": ..., "endings": ["...", "..."], "label": 0}'
        )
    return endings
