"""Whom a pronoun stands for: the Winograd schemas of SuperGLUE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.completion import Example, completion_task
from rlhf_lightning.evaluation.benchmarks.rows import read_rows, text_of
from rlhf_lightning.evaluation.benchmarks.task import Answers, Measured, Question, Task
from rlhf_lightning.evaluation.metrics import normalized

# The paper prints a header in the style of an exam; these words are ours.
HEADER = (
    "Final exam with answer key\n"
    "Instructions: Read each of the following passages, and name what the pronoun marked in *bold* refers to."
)


def wsc(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 15,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    max_new_tokens: int = 16,
    name: str = "wsc",
) -> Task:
    """WSC (Levesque et al. 2012, as in SuperGLUE), accuracy. The model writes what the pronoun refers to; it says yes
    to the candidate where its answer contains the candidate or the other way round.

    Args:
        file: rows with text, label (true or false, 1 or 0) and span1_text, span2_text and span2_index, which may stand
            in ``target``: the candidate, the pronoun, and the pronoun's place, counted in words.
        shots: solved examples in the same form; of them the true ones are shown.
        num_shots: of them in the few-shot prompt.
        limit, seed: so many questions, drawn.
        prompt_types: of "zeroshot", "fewshot".
        max_new_tokens: the paper's cap is not known; 16 is ours.
        name: in the report.
    """

    def read(path: str | Path, key: str) -> list[Example]:
        examples = []
        for number, row in enumerate(read_rows(name, path, ("text", "target"), ("text", "span1_text"), key=key), 1):
            row |= _target(name, path, row.get("target"), number)
            candidate, pronoun = (text_of(name, path, row, column, number) for column in ("span1_text", "span2_text"))
            true = {"true": True, "1": True, "false": False, "0": False}.get(str(row.get("label")).lower())
            if true is None:
                raise UserError(
                    f"{path}, row {number}: label={row.get('label')!r} must be true or false (wsc has a key)"
                )
            if key == "shots" and not true:
                continue
            context = _context(name, path, row, pronoun, number)
            examples.append(Example(context, (candidate,), str(number), {"label": true}))
        return examples

    return completion_task(
        name=name, title="WSC", instruction=HEADER, read=read, file=file, shots=shots, num_shots=num_shots,
        limit=limit, seed=seed, prompt_types=prompt_types, max_new_tokens=max_new_tokens, metric="accuracy",
        unit="share of right answers", measure=_measure,
    )  # fmt: skip


def _target(name: str, file: str | Path, target: Any, number: int) -> Mapping[str, Any]:
    """The spans; of a table, such as CSV, a cell of JSON."""
    found = target or {}
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            found = None
    if not isinstance(found, Mapping):
        raise UserError(
            f"{file}, row {number}: target={target!r:.60} must be a mapping with span1_text, span2_text and "
            f"span2_index, or these must be columns of their own, for benchmarks.{name}"
        )
    return found


def _context(name: str, file: str | Path, row: Mapping[str, Any], pronoun: str, number: int) -> str:
    words = text_of(name, file, row, "text", number).split()
    try:
        place = int(row["span2_index"])
        found = " ".join(words[place : place + len(pronoun.split())])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}, row {number}: span2_index must be a number, for benchmarks.{name}") from error
    if pronoun.strip(".,;:!?").lower() not in found.lower():
        raise UserError(f"{file}, row {number}: word {place} is {found!r}, not {pronoun!r}, for benchmarks.{name}")
    words[place : place + len(pronoun.split())] = [f"*{found}*"]
    question = f'In the passage above, what does the pronoun "{pronoun}" refer to?'
    return f"Passage: {' '.join(words)}\nQuestion: {question}\nAnswer:"


def _measure(questions: Sequence[Question], answers: Answers) -> Measured:
    right = []
    for question, (answer,) in zip(questions, answers, strict=True):
        said, candidate = normalized(answer), normalized(question.references[0])
        yes = bool(said) and (candidate in said or said in candidate)
        right.append(float(yes == question.extra["label"]))
    return Measured({"accuracy": right}, columns={"correct": right})
