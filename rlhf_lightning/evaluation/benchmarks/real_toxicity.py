"""Toxicity of continuations: RealToxicityPrompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.bias import LINES
from rlhf_lightning.evaluation.benchmarks.rows import draw, read_rows
from rlhf_lightning.evaluation.benchmarks.task import Answers, Measured, Question, Task, check_prompt_types
from rlhf_lightning.evaluation.metrics import require, toxicity

ToxicityScorer = Callable[[Sequence[str]], Sequence[float]]
"""Texts -> for each the probability, within 0 and 1, that it is toxic."""


class AltProfanityCheck:
    """A local scorer: the linear classifier of the package alt-profanity-check (extra ``eval``).

    It knows insults and obscenities, not tone. Over the 3,600 released samples its scores correlate with Perspective's
    by 0.75 (Spearman 0.47; AUC 0.89 at 0.5), the means of models and prompt types by 0.95.
    """

    def __init__(self) -> None:
        self._predict: Any = require("profanity_check", "alt-profanity-check").predict_prob

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Probabilities; 0 for a text without words, in which nothing can be toxic."""
        found = [float(p) for p in self._predict(list(texts))] if texts else []
        return [p if text.strip() else 0.0 for p, text in zip(found, texts, strict=True)]


def real_toxicity(
    *,
    file: str | Path,
    scorer: ToxicityScorer,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    max_new_tokens: int = 20,
    samples: int = 1,
    name: str = "real_toxicity",
) -> Task:
    """RealToxicityPrompts (Gehman et al. 2020), continued greedily as in the paper, or sampled as in its own protocol.

    Args:
        file: rows with the prompt as ``context``, as ``prompt`` text or as ``prompt: {"text", "toxicity"}``. Rows of
            the same prompt are asked once.
        scorer: of the continuation alone.
        limit: so many prompts; drawn about uniformly in the prompt's toxicity where the file knows that; those
            without a score come last.
        seed: of the draw.
        prompt_types: of "basic prompt", "respectful prompt", "biased prompt"; all by default.
        max_new_tokens: the paper's cap is 20.
        samples: continuations per prompt; 25 at temperature 1 give the expected maximum.
        name: in the report.
    """
    types = check_prompt_types(name, prompt_types, list(LINES))
    prompts: dict[str, float | None] = {}
    for number, row in enumerate(read_rows(name, file, ("context",), ("prompt",)), 1):
        value = row["context"] if "context" in row else row["prompt"]
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{file}, row {number}: the prompt must be text that is not blank, for benchmarks.{name}")
        prompts[text] = value.get("toxicity") if isinstance(value, dict) else None

    def measure(questions: Sequence[Question], answers: Answers) -> Measured:
        flat = [text for texts in answers for text in texts]
        scores = [float(score) for score in scorer(flat)]
        if len(scores) != len(flat) or not all(0 <= score <= 1 for score in scores):
            raise UserError(
                f"benchmarks.{name}.scorer must give one number within 0 and 1 for each of {len(flat)} texts"
            )
        remaining = iter(scores)
        return Measured(toxicity([[next(remaining) for _ in texts] for texts in answers]), columns={"toxicity": scores})

    chosen = _uniform(name, prompts, limit, seed)
    return Task(
        name=name,
        title="RealToxicityPrompts",
        metric="toxicity",
        unit="mean toxicity of the completion, 0 to 1",
        questions=[Question(text, {kind: LINES[kind] + text for kind in types}) for text in chosen],
        available=len(prompts),
        file=str(file),
        prompt_types=types,
        measure=measure,
        max_new_tokens=max_new_tokens,
        samples=samples,
        higher_is_better=False,
    )


def _uniform(name: str, prompts: dict[str, float | None], limit: int | None, seed: int) -> list[str]:
    texts = list(prompts)
    if limit is None or limit >= len(texts) or all(value is None for value in prompts.values()):
        return draw(name, texts, limit, seed)
    draw(name, texts, limit, seed)  # its checks
    bins: list[list[str]] = [[] for _ in range(10)]
    unscored = []
    for text in random.Random(f"{name} {seed}").sample(texts, len(texts)):
        score = prompts[text]
        if score is None:
            unscored.append(text)
        else:
            bins[min(9, int(10 * float(score)))].append(text)
    # Those without a score fill up what the others leave.
    lacking = max(0, limit - (len(texts) - len(unscored)))
    taken: set[str] = set(unscored[:lacking])
    while len(taken) < limit:  # one of each tenth in turn, as long as it has some
        for tenth in bins:
            if tenth and len(taken) < limit:
                taken.add(tenth.pop())
    return [text for text in texts if text in taken]
