"""Tasks of the alignment tax: an instruction, a query in its own format, and solved ones before it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.rows import draw
from rlhf_lightning.evaluation.benchmarks.task import Measured, Question, Task, check_prompt_types

ZERO, FEW = "zeroshot", "fewshot"


class Example(NamedTuple):
    """A query with its answers. Of those that share a ``group``, such as a passage, one serves as a solved example: the
    last, which has the others before it where they are turns of one dialogue."""

    context: str
    references: tuple[str, ...]
    group: str
    extra: Mapping[str, Any] = {}
    choices: tuple[str, ...] = ()


Reader = Callable[[str | Path, str], list[Example]]
"""(file, the argument it came by) -> examples."""


def completion_task(
    *,
    name: str,
    title: str,
    instruction: str,
    read: Reader,
    file: str | Path,
    shots: str | Path | None,
    num_shots: int,
    limit: int | None,
    seed: int,
    prompt_types: Sequence[str] | None,
    max_new_tokens: int | None,
    metric: str,
    unit: str,
    measure: Callable[[Sequence[Question], Any], Measured],
) -> Task:
    """A task that is asked zero-shot and, where there is a file of solved examples, few-shot.

    The few-shot prompt has ``num_shots`` examples in the query's own format between the instruction and the query, a
    blank line after each; all questions get the same.

    Raises:
        UserError: also few-shot without ``shots``, or fewer examples there than ``num_shots``.
    """
    examples = read(file, "file")
    types = check_prompt_types(name, prompt_types, [ZERO] if shots is None and prompt_types is None else [ZERO, FEW])
    if FEW in types and shots is None:
        raise UserError(f"benchmarks.{name}.prompt_types has fewshot: give benchmarks.{name}.shots, a file of examples")
    heads = {ZERO: f"{instruction}\n\n" if instruction else ""}
    if shots is not None and FEW in types:
        groups = list({example.group: example for example in read(shots, "shots")}.values())
        if num_shots < 1 or len(groups) < num_shots:
            raise UserError(
                f"benchmarks.{name}.num_shots={num_shots}: {shots} has {len(groups)} examples to show, at least one "
                "must be shown and no more than these can be"
            )
        solved = random.Random(f"{name} {seed}").sample(groups, num_shots)
        heads[FEW] = heads[ZERO] + "".join(f"{shot.context} {shot.references[0].strip()}\n\n" for shot in solved)
    return Task(
        name=name,
        title=title,
        metric=metric,
        unit=unit,
        questions=[
            Question(e.context, {kind: heads[kind] + e.context for kind in types}, e.references, e.choices, e.extra)
            for e in draw(name, examples, limit, seed)
        ],
        available=len(examples),
        file=str(file),
        prompt_types=types,
        measure=measure,
        max_new_tokens=max_new_tokens,
        tax=True,
    )


def released(rows: Sequence[Mapping[str, Any]], split: Callable[[str], Sequence[str]]) -> list[Example]:
    """Examples from a file in the columns of the released samples, ``context`` and ``ref_text``; each context once."""
    found = {str(row["context"]): str(row["ref_text"]) for row in rows}
    return [Example(context, tuple(split(text)), context) for context, text in found.items()]
