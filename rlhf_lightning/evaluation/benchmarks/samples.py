"""Sample files in the columns in which OpenAI released its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.data import whole_file
from rlhf_lightning.evaluation.benchmarks.task import Measured, Question, Task

Cell = tuple[str, str]
"""Prompt type and model."""


def write_samples(
    task: Task, answers: Mapping[Cell, Sequence[Sequence[Any]]], measured: Mapping[Cell, Measured], folder: str | Path
) -> Path:
    """Write ``<folder>/<task>.csv``: number, model_type, prompt_type, context, ref_text where there are references,
    sample, and what was found out about it; the file appears whole.

    Every field is text; references are joined by vertical bars.
    """
    path = Path(folder) / f"{task.name}.csv"
    rows = list(_rows(task, answers, measured))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *columns])
        for number, row in enumerate(rows):
            writer.writerow([number, *(row.get(column, "") for column in columns)])
    return path


def read_samples(path: str | Path) -> list[dict[str, str]]:
    """The rows of a sample file, ours or a released one; every field is text, so that the sample "None" stays one."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name} for row in csv.DictReader(file)]


def _rows(
    task: Task, answers: Mapping[Cell, Sequence[Sequence[Any]]], measured: Mapping[Cell, Measured]
) -> Iterator[dict[str, Any]]:
    for index, question in enumerate(task.questions):
        for (prompt_type, model), given in answers.items():
            columns = measured[prompt_type, model].columns
            written = given[index] if task.max_new_tokens is not None else [None]
            for place, sample in enumerate(written):
                found = {name: values[index * len(written) + place] for name, values in columns.items()}
                yield _row(task, question, prompt_type, model, sample, found)


def _row(
    task: Task, question: Question, prompt_type: str, model: str, sample: str | None, found: dict[str, Any]
) -> dict[str, Any]:
    named = task.columns.get
    row: dict[str, Any] = {"model_type": model, "prompt_type": prompt_type}
    row |= {name: value for name, value in question.extra.items() if isinstance(value, str | int | float)}
    row[named("context", "context")] = question.context
    if question.references:
        row[named("ref_text", "ref_text")] = "|".join(question.references)
    if sample is not None:
        row[named("sample", "sample")] = sample
    return row | found
