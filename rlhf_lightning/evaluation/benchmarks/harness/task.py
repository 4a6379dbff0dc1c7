"""A task of lm-evaluation-harness as a benchmark."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.answering import Answered
from rlhf_lightning.evaluation.benchmarks.rows import check_file, draw
from rlhf_lightning.evaluation.benchmarks.task import Answers, Interval, Measured, Question, Task
from rlhf_lightning.evaluation.loaded import LoadedModel
from rlhf_lightning.evaluation.metrics import require

OWN = Path(__file__).parent / "tasks"
"""Our task files, for local data."""
LOCAL = tuple(sorted(f"local_{path.stem}" for path in OWN.glob("*.yaml")))
_RESAMPLES = 200


def harness(
    *,
    task: str,
    file: str | Path | None = None,
    shots: str | Path | None = None,
    num_fewshot: int | Sequence[int] = 0,
    include_path: str | Path | None = None,
    metric: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Task:
    """A task of lm-evaluation-harness (extra ``eval``), asked with the harness's prompts and measured by its metrics.

    Answers are kept and resumed as those of other benchmarks; intervals are ours. What the harness knows by a name of
    its own it reads from the Hub; ``local_hellaswag``, ``local_rte``, ``local_sst2``, ``local_truthful_qa_mc1`` and
    ``local_truthful_qa_mc2`` read a local ``file`` alone.

    Args:
        task: one of the harness's names, of ours, or of those in ``include_path``; no group of tasks.
        file: the rows, for our tasks and for those whose ``custom_dataset`` takes a ``file``.
        shots: solved examples in the same form, for few-shot prompts of our tasks.
        num_fewshot: examples before a question, or several numbers, each of which is asked: 0, or [0, 15].
        include_path: a folder of task files (YAML) of your own.
        metric: the one that is drawn and compared; the task's first by default. All are reported.
        limit, seed: so many questions, drawn; the seed also draws the examples.
        name: in the report; the task's by default.

    Raises:
        UserError: lm_eval is not installed, there is no such task, its data cannot be had, or examples are asked of a
            task that shows none.
    """
    called = name or task
    shown = [num_fewshot] if isinstance(num_fewshot, int) else list(num_fewshot)
    if not shown or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shown):
        raise UserError(f"benchmarks.{called}.num_fewshot={num_fewshot} must be a number from 0, or a list of such")
    if len(set(shown)) < len(shown):
        raise UserError(f"benchmarks.{called}.num_fewshot={num_fewshot} names one number twice")
    require("lm_eval")
    _check_files(called, task, file, shots, max(shown))
    data = {"file": None if file is None else str(file), "shots": None if shots is None else str(shots)}
    data |= {"called": called}
    known = {
        f"{count}-shot": _load(called, task, include_path, data if file is not None else {}, count, seed)
        for count in shown
    }
    one: Any = next(iter(known.values()))
    metrics = list(one.higher_is_better())
    headline = metric or metrics[0]
    if headline not in metrics:
        raise UserError(f"benchmarks.{called}.metric={metric}: the task {task} has {', '.join(metrics)}")
    docs = one.eval_docs
    rows = draw(called, range(len(docs)), limit, seed)
    return Task(
        name=called,
        title=f"{task.removeprefix('local_')} (lm-evaluation-harness)",
        metric=headline,
        unit=f"{headline} of lm-evaluation-harness",
        questions=[Question(str(one.doc_to_text(docs[row])), dict.fromkeys(known, ""), extra={}) for row in rows],
        available=len(docs),
        file=str(file) if file is not None else f"{task}, as lm-evaluation-harness reads it",
        prompt_types=tuple(known),
        measure=lambda questions, answers: _measure(one.aggregation(), answers, seed),
        higher_is_better=one.higher_is_better()[headline],
        tax=True,
        ask=_asker(called, known, rows if len(rows) < len(docs) else None, seed),
    )


def _check_files(called: str, task: str, file: str | Path | None, shots: str | Path | None, most: int) -> None:
    if task in LOCAL and file is None:
        raise UserError(f"benchmarks.{called}.file is needed: {task} reads a local file")
    if task in LOCAL and most > 0 and shots is None and "truthful" not in task:
        raise UserError(
            f"benchmarks.{called}.num_fewshot={most}: give benchmarks.{called}.shots, a file of solved examples"
        )
    for key, path in (("file", file), ("shots", shots)):
        if path is not None:
            check_file(called, path, key)


def _load(called: str, task: str, include: str | Path | None, data: Mapping[str, Any], count: int, seed: int) -> Any:
    """The harness's own object of a task, with its documents."""
    with _quiet():
        manager: Any = _manager(include, False, tuple(sorted(data.items())))
        if task not in manager.all_tasks and not task.startswith("local_"):
            manager = _manager(include, True, tuple(sorted(data.items())))
        if task in manager.all_groups or task in manager.all_tags:
            raise UserError(f"benchmarks.{called}.task={task} is a group of tasks: give one of them at a time")
        if task not in manager.all_subtasks:
            close = manager.match_tasks([f"{task[:4]}*"])[:8]
            hint = f"; there are {', '.join(close)}" if close else f"; of local files: {', '.join(LOCAL)}"
            raise UserError(f"benchmarks.{called}.task={task}: lm-evaluation-harness has no such task{hint}")
        try:
            found = manager.load([task])["tasks"][task]
        except UserError:
            raise
        except Exception as error:  # of whatever the task's own code does
            raise UserError(
                f"benchmarks.{called}.task={task}: lm-evaluation-harness could not load its data, which come from the "
                f"Hub unless the task file says otherwise ({type(error).__name__}: {error}); allow the network, or "
                f"take one of {', '.join(LOCAL)} with a file"
            ) from error
    if count and found.get_config("num_fewshot") == 0:
        raise UserError(f"benchmarks.{called}.num_fewshot={count}: the task {task} fixes its examples; give 0")
    available = sum(1 for _ in found.fewshot_docs() or ()) if count else 0
    if count > available:
        raise UserError(f"benchmarks.{called}.num_fewshot={count}: there are {available} examples to show")
    found.set_config(key="num_fewshot", value=count)
    found.set_fewshot_seed(seed=seed)
    return found


@cache
def _manager(include: str | Path | None, defaults: bool, data: tuple[tuple[str, Any], ...]) -> Any:
    """Local task files alone, unless ``defaults``: to read all the names of the harness takes seconds."""
    folders = [str(OWN)] if include is None else [str(OWN), str(include)]
    if include is not None and not Path(include).is_dir():
        raise UserError(f"include_path={include} is no folder: give one with task files of lm-evaluation-harness")
    manager = require("lm_eval.tasks", "lm_eval").TaskManager
    return manager(include_path=folders, include_defaults=defaults, metadata=dict(data))


def _asker(called: str, known: Mapping[str, Any], rows: list[int] | None, draw_seed: int) -> Callable[..., Answered]:
    def ask(
        task: Task,
        prompt_type: str,
        loaded: LoadedModel,
        *,
        fingerprint: str,
        prefix: str = "",
        store: str | Path,
        batch_size: int = 32,
        seed: int = 0,
        label: str = "model",
    ) -> Answered:
        from rlhf_lightning.evaluation.benchmarks.harness.model import KeptModel

        harnessed = known[prompt_type]
        depends = {
            "model": fingerprint,
            "tokenizer": loaded.encoder.fingerprint(),
            "dtype": str(next(loaded.model.parameters()).dtype),
            "task": called,
            "harness": require("lm_eval").__version__,
        }
        with _quiet():
            model = KeptModel(
                loaded, prefix=prefix, store=store, batch_size=batch_size, seed=seed, depends=depends, label=label
            )
            harnessed.set_fewshot_seed(seed=draw_seed)  # every model is shown the same examples
            found: Any = require("lm_eval").evaluate(
                lm=model,
                task_dict={"tasks": {harnessed.task_name: harnessed}, "groups": {}},
                samples=None if rows is None else {harnessed.task_name: rows},
                bootstrap_iters=0,
                log_samples=True,
            )
        samples = next(iter(found["samples"].values()))
        return Answered(_by_question(samples), model.cut, "+".join(model.keys))

    return ask


def _by_question(samples: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """One dictionary for each document: its metrics by name (of the second filter on with the filter's name), what was
    said, and what is right."""
    first = samples[0]["filter"]
    found: dict[Any, dict[str, Any]] = {}
    for sample in samples:
        entry = found.setdefault(sample["doc_id"], {"metrics": {}, "target": str(sample["target"])})
        entry.setdefault("sample", _said(sample))
        suffix = "" if sample["filter"] == first else f", {sample['filter']}"
        entry["metrics"] |= {f"{metric}{suffix}": sample[metric] for metric in sample["metrics"]}
    return [[found[row]] for row in sorted(found)]


def _said(sample: Mapping[str, Any]) -> str:
    said, arguments = list(sample["filtered_resps"]), sample["arguments"]
    if all(isinstance(one, tuple | list) and len(one) == 2 for one in said):  # log-probabilities of choices
        best = max(range(len(said)), key=lambda place: said[place][0])
        return str(arguments[best][1]).strip()
    return str(said[0])


def _measure(aggregation: Mapping[str, Callable[[Any], Any]], answers: Answers, seed: int) -> Measured:
    entries: list[Any] = [samples[0] for samples in answers]
    rows: dict[str, list[float]] = {}
    whole: dict[str, Interval] = {}
    for metric in entries[0]["metrics"]:
        values = [entry["metrics"][metric] for entry in entries]
        aggregate = aggregation[metric.split(",")[0]]
        total = float(aggregate(values))
        plain = all(isinstance(value, Real | np.number | np.bool_) for value in values)
        if plain and math.isclose(total, float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-12):
            rows[metric] = [float(value) for value in values]
        else:
            whole[metric] = _bootstrapped(total, aggregate, values, seed)
    columns = {"sample": [entry["sample"] for entry in entries], "target": [entry["target"] for entry in entries]}
    return Measured(rows, whole, columns | {metric: list(values) for metric, values in rows.items()})


def _bootstrapped(total: float, aggregate: Callable[[Any], Any], values: list[Any], seed: int) -> Interval:
    """The 95 % interval of a figure that is no mean over documents, such as a perplexity."""
    generator = random.Random(seed)
    drawn = [float(aggregate(generator.choices(values, k=len(values)))) for _ in range(_RESAMPLES)]
    known = [value for value in drawn if not math.isnan(value)]
    if not known or math.isnan(total):
        return Interval(None if math.isnan(total) else total, None, None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(total, float(low), float(high))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness says much that is not for whoever evaluates."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
