"""The alignment tax: what models lose or gain on public tasks against the models that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_lightning.evaluation.benchmarks.task import Interval, Measured, Task
from rlhf_lightning.evaluation.win_rate import bootstrap_interval

Results = Mapping[tuple[str, str, str], Measured]
"""By task, prompt type and model."""


def alignment_tax(
    tasks: Sequence[Task],
    results: Results,
    models: Sequence[str],
    references: Sequence[str],
    losses: Mapping[str, float | None],
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Differences ``model − reference``, a row for each task, prompt type, reference and other model.

    Both answered the same questions, so the interval draws questions with both models' answers to them (a paired
    bootstrap), where the figure is a mean over questions. ``gain`` turns the sign so that more is better.

    Args:
        references: those of ``models`` that are compared with.
        losses: by model, the loss on held-out text, in nats per token; it is a row like the others.
    """
    rows = []
    for reference in references:
        for task in tasks:
            if not task.tax:
                continue
            for prompt_type in task.prompt_types:
                before = results[task.name, prompt_type, reference]
                for model in models:
                    if model != reference:
                        after = results[task.name, prompt_type, model]
                        found = _difference(task.metric, before, after, seed)
                        sign = 1.0 if task.higher_is_better else -1.0
                        named = (task.name, task.title, prompt_type, task.metric)
                        rows.append(_row(named, reference, model, found, sign))
        start = losses.get(reference)
        for model in models:
            end = losses.get(model)
            if model != reference and start is not None and end is not None:
                found = Interval(end - start, None, None)
                rows.append(_row(("text", "Held-out text", "", "loss"), reference, model, found, -1.0))
    return rows


def _difference(metric: str, before: Measured, after: Measured, seed: int) -> Interval:
    if metric in before.rows:
        differences = np.array(after.rows[metric]) - np.array(before.rows[metric])
        return Interval(float(differences.mean()), *bootstrap_interval(differences, seed=seed))
    values = before.whole[metric].value, after.whole[metric].value
    return Interval(None if None in values else values[1] - values[0], None, None)  # type: ignore[operator]


def _row(named: tuple[str, str, str, str], reference: str, model: str, found: Interval, sign: float) -> dict[str, Any]:
    task, title, prompt_type, metric = named
    return {
        "task": task,
        "title": title,
        "prompt_type": prompt_type,
        "metric": metric,
        "reference": reference,
        "model": model,
        "difference": found.value,
        "interval": None if found.low is None else [found.low, found.high],
        "gain": None if found.value is None else sign * found.value,
    }
