"""What a benchmark is to the code that runs it: texts to complete or to choose among, and a measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.win_rate import bootstrap_interval, share_interval


class Question(NamedTuple):
    """One row of a benchmark.

    Args:
        context: the query alone, as the released sample files show it.
        prompts: by prompt type, all that a model reads before it answers.
        references: right answers.
        choices: texts that are compared by their probability instead of an answer being written.
        extra: further columns, for the measure and for the sample file.
    """

    context: str
    prompts: Mapping[str, str]
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}


class Choice(NamedTuple):
    """Total log-probability (nats) of a text, and its number of tokens."""

    logprob: float
    tokens: int


class Interval(NamedTuple):
    """A figure and its 95 % interval; ``None`` where it cannot be decided."""

    value: float | None
    low: float | None
    high: float | None


class Measured(NamedTuple):
    """What was found out about the answers to n questions.

    Args:
        rows: per metric, n numbers whose mean is the figure; NaN where one cannot be decided.
        whole: figures that are no means, such as BLEU.
        columns: per column of the sample file, one value for each sample.
    """

    rows: Mapping[str, list[float]]
    whole: Mapping[str, Interval] = {}
    columns: Mapping[str, list[Any]] = {}

    def figures(self, seed: int = 0) -> dict[str, Interval]:
        """Every metric with its 95 % interval, by bootstrap over questions."""
        return {**self.whole, **{name: mean_interval(values, seed=seed) for name, values in self.rows.items()}}


Answers = Sequence[Sequence[str]]
"""Per question, its samples."""
Chosen = Sequence[Sequence[Choice]]
"""Per question, what each of its choices is worth."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark, read and drawn, before any model.

    Args:
        name: its key in reports and its sample file.
        title: how it is called in the report.
        metric: the one that is drawn and compared; ``measure`` may give more.
        unit: what ``metric`` is counted in, for the axis.
        questions: those that are asked.
        available: how many the file has.
        file: where they come from.
        prompt_types: keys of every question's ``prompts``.
        measure: (questions, answers or choices) -> figures.
        max_new_tokens: of an answer; ``None`` where texts are chosen among.
        samples: answers per prompt; more than one are drawn at temperature 1.
        higher_is_better: ``None`` where neither direction is.
        tax: whether it counts towards the alignment tax.
        columns: names in the sample file for ``context``, ``sample`` and ``ref_text``.
        ask: asks a model in place of :func:`~rlhf_lightning.evaluation.benchmarks.answering.answer`, whose arguments it
            takes.
    """

    name: str
    title: str
    metric: str
    unit: str
    questions: Sequence[Question]
    available: int
    file: str
    prompt_types: tuple[str, ...]
    measure: Callable[[Sequence[Question], Any], Measured]
    max_new_tokens: int | None = None
    samples: int = 1
    higher_is_better: bool | None = True
    tax: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"benchmarks.{self.name}.max_new_tokens={self.max_new_tokens} must be at least 1")
        if self.samples < 1:
            raise UserError(f"benchmarks.{self.name}.samples={self.samples} must be at least 1")


def mean_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean of the numbers that are decided and its 95 % interval by bootstrap, of a share by
    :func:`~rlhf_lightning.evaluation.share_interval`."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Interval(None, None, None)
    interval = share_interval if set(known) <= {0.0, 1.0} else bootstrap_interval
    return Interval(sum(known) / len(known), *interval(known, seed=seed))


def check_prompt_types(name: str, asked: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The prompt types to run; all by default.

    Raises:
        UserError: one that the benchmark has not, or none.
    """
    chosen = tuple(known if asked is None else asked)
    unknown = [prompt_type for prompt_type in chosen if prompt_type not in known]
    if unknown or not chosen:
        raise UserError(
            f"benchmarks.{name}.prompt_types={list(chosen)}: take some of {', '.join(map(repr, known))}"
            + (f"; {unknown[0]!r} is none" if unknown else "")
        )
    return chosen
