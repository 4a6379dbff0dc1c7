"""Translation and summaries: WMT 2015 from French, CNN/DailyMail and Reddit TL;DR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.evaluation.benchmarks.completion import Example, completion_task, released
from rlhf_lightning.evaluation.benchmarks.rows import read_rows, text_of
from rlhf_lightning.evaluation.benchmarks.task import Answers, Interval, Measured, Question, Task
from rlhf_lightning.evaluation.metrics import corpus_bleu, require, rouge

TRANSLATE = "Translate the following sentences from French into English."


def wmt15_fr_en(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 15,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    max_new_tokens: int = 128,
    name: str = "wmt15_fr_en",
) -> Task:
    """WMT 2015, French to English (sacrebleu's test set ``wmt15``), corpus BLEU.

    Args:
        file: rows with fr and en, or with translation ``{"fr", "en"}``; or context and ref_text as released.
        shots: solved examples in the same form, for the few-shot prompt; without it the prompt is zero-shot alone.
        num_shots: of them in the few-shot prompt.
        limit, seed: so many sentences, drawn.
        prompt_types: of "zeroshot", "fewshot".
        max_new_tokens: no cap shows in the released samples, the longest of which has 70 tokens.
        name: in the report.
    """
    require("sacrebleu")

    def read(path: str | Path, key: str) -> list[Example]:
        rows = read_rows(name, path, ("fr", "en"), ("translation",), ("context", "ref_text"), key=key)
        if "ref_text" in rows[0]:
            return released(rows, lambda text: [text])
        examples = []
        for number, row in enumerate(rows, 1):
            row |= row.get("translation") or {}
            french, english = (text_of(name, path, row, column, number) for column in ("fr", "en"))
            examples.append(Example(f"French: {french}\nEnglish:", (english,), str(number)))
        return examples

    def measure(questions: Sequence[Question], answers: Answers) -> Measured:
        found = corpus_bleu([samples[0] for samples in answers], [question.references[0] for question in questions])
        return Measured({}, {"bleu": Interval(*found)})

    return completion_task(
        name=name, title="WMT15 fr-en", instruction=TRANSLATE, read=read, file=file, shots=shots, num_shots=num_shots,
        limit=limit, seed=seed, prompt_types=prompt_types, max_new_tokens=max_new_tokens, metric="bleu",
        unit="BLEU, 0 to 100", measure=measure,
    )  # fmt: skip


def cnn_dm(
    *,
    file: str | Path,
    limit: int | None = None,
    seed: int = 0,
    max_new_tokens: int = 128,
    stem: bool = False,
    name: str = "cnn_dm",
) -> Task:
    """CNN/DailyMail summaries, zero-shot, ROUGE-L F, 0 to 1. The paper's row is that of TL;DR and cannot be trusted.

    Args:
        file: rows with article and highlights; or context and ref_text.
        limit, seed: so many articles, drawn.
        max_new_tokens: the paper's cap is not known; 128 is ours.
        stem: compare the stems of words.
        name: in the report.
    """
    return _summaries(name, "CNN/DailyMail", file, ("article", "highlights"), limit, seed, max_new_tokens, stem)


def tldr(
    *,
    file: str | Path,
    limit: int | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    stem: bool = False,
    name: str = "tldr",
) -> Task:
    """Reddit TL;DR summaries, zero-shot, ROUGE-L F, 0 to 1.

    Args:
        file: rows with post and summary; or context and ref_text as in the released samples, where a vertical bar
            separates nothing.
        limit, seed, stem, name: as in :func:`cnn_dm`.
        max_new_tokens: the paper's cap is 256.
    """
    return _summaries(name, "Reddit TL;DR", file, ("post", "summary"), limit, seed, max_new_tokens, stem)


def _summaries(
    name: str, title: str, file: str | Path, columns: tuple[str, str], limit: int | None, seed: int,
    max_new_tokens: int, stem: bool,
) -> Task:  # fmt: skip
    require("rouge_score")

    def read(path: str | Path, key: str) -> list[Example]:
        rows: Sequence[Mapping[str, Any]] = read_rows(name, path, columns, ("context", "ref_text"), key=key)
        if columns[0] not in rows[0]:
            return released(rows, lambda text: [text])
        examples = []
        for number, row in enumerate(rows, 1):
            text, summary = (text_of(name, path, row, column, number) for column in columns)
            examples.append(Example(f"{text.strip()}\n\nTL;DR:", (summary,), str(number)))
        return examples

    def measure(questions: Sequence[Question], answers: Answers) -> Measured:
        found = rouge([samples[0] for samples in answers], [q.references[0] for q in questions], stem=stem)
        return Measured(found, columns=dict(found))

    return completion_task(
        name=name, title=title, instruction="", read=read, file=file, shots=None, num_shots=0, limit=limit, seed=seed,
        prompt_types=None, max_new_tokens=max_new_tokens, metric="rougeL", unit="ROUGE-L F, 0 to 1", measure=measure,
    )  # fmt: skip
