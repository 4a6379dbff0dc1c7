"""Questions about a passage: DROP, SQuAD 2.0 and QuAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.completion import Example, completion_task, released
from rlhf_lightning.evaluation.benchmarks.rows import read_nested, read_rows, text_of
from rlhf_lightning.evaluation.benchmarks.task import Answers, Measured, Question, Task
from rlhf_lightning.evaluation.metrics import alternatives, best, drop_exact, drop_f1, squad_exact, squad_f1

DROP = "Answer each question using information in the preceding passage."
_BACKGROUND = (
    "Answer each question using information in the preceding background{0}. If there is not enough information "
    'provided, answer with "{1}"'
)
NOT_IN_BACKGROUND, NOT_KNOWN = "Not in background.", "I don't know."
SQUAD = _BACKGROUND.format("", NOT_IN_BACKGROUND)
QUAC = _BACKGROUND.format(" paragraph", NOT_KNOWN)


def drop(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 4,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    max_new_tokens: int = 25,
    name: str = "drop",
) -> Task:
    """DROP (Dua et al. 2019), F1 by its own rule, 0 to 100.

    Args:
        file: rows with passage, question and answers (a list, or text with vertical bars) or answers_spans
            ``{"spans"}``, which are joined by " and "; or context and ref_text as in the released samples.
        shots: solved examples in the same form, for the few-shot prompt; without it the prompt is zero-shot alone.
        num_shots: passages in the few-shot prompt.
        limit, seed: so many questions, drawn.
        prompt_types: of "zeroshot", "fewshot".
        max_new_tokens: the paper's cap is 25.
        name: in the report.
    """

    def read(path: str | Path, key: str) -> list[Example]:
        forms = (("passage", "question", "answers"), ("passage", "question", "answers_spans"), ("context", "ref_text"))
        rows = read_rows(name, path, *forms, key=key)
        if "passage" not in rows[0]:
            return released(rows, alternatives)
        found = []
        for number, row in enumerate(rows, 1):
            passage, question = (text_of(name, path, row, column, number) for column in ("passage", "question"))
            spans = row.get("answers_spans")
            answers = _texts(row["answers"]) if "answers" in row else [" and ".join((spans or {}).get("spans") or ())]
            if not answers or not answers[0]:
                raise UserError(f"{path}, row {number}: no answer, for benchmarks.{name}")
            found.append(Example(f"Passage: {passage}\nQuestion: {question}\nAnswer:", tuple(answers), passage))
        return found

    def measure(questions: Sequence[Question], answers: Answers) -> Measured:
        return _against(questions, answers, {"f1": drop_f1, "exact": drop_exact})

    return completion_task(
        name=name, title="DROP", instruction=DROP, read=read, file=file, shots=shots, num_shots=num_shots, limit=limit,
        seed=seed, prompt_types=prompt_types, max_new_tokens=max_new_tokens, metric="f1", unit="F1, 0 to 100",
        measure=measure,
    )  # fmt: skip


def squadv2(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 4,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    max_new_tokens: int = 16,
    name: str = "squadv2",
) -> Task:
    """SQuAD 2.0 (Rajpurkar et al. 2018), token F1, 0 to 100. A question stands after the earlier ones about the same
    paragraph with their gold answers.

    Args:
        file: ``dev-v2.0.json``; or rows with title, context, question and answers ``{"text": [...]}``; or context and
            ref_text as in the released samples.
        shots, num_shots, limit, seed, prompt_types, max_new_tokens, name: as in :func:`drop`; the cap is 16 tokens.
    """

    def read(path: str | Path, key: str) -> list[Example]:
        paragraphs = _squad_paragraphs(name, path, key)
        if paragraphs is None:
            return released(read_rows(name, path, ("context", "ref_text"), key=key), alternatives)
        return _turns(paragraphs, "Title: {0}\n\nBackground: {1}", "\n\n", NOT_IN_BACKGROUND)

    return _f1_task(name, "SQuAD 2.0", SQUAD, read, file, shots, num_shots, limit, seed, prompt_types, max_new_tokens)


def quac(
    *,
    file: str | Path,
    shots: str | Path | None = None,
    num_shots: int = 2,
    limit: int | None = None,
    seed: int = 0,
    prompt_types: Sequence[str] | None = None,
    max_new_tokens: int = 32,
    name: str = "quac",
) -> Task:
    """QuAC (Choi et al. 2018), token F1, 0 to 100: a question stands after the dialogue with gold answers.

    Args:
        file: ``val_v0.2.json``; or context and ref_text.
        shots, num_shots, limit, seed, prompt_types, max_new_tokens, name: as in :func:`drop`. The paper's cap is not
            known; 32 is ours.
    """

    def read(path: str | Path, key: str) -> list[Example]:
        paragraphs = _squad_paragraphs(name, path, key)
        if paragraphs is None:
            return released(read_rows(name, path, ("context", "ref_text"), key=key), alternatives)
        return _turns(paragraphs, "TITLE: {0}\n\nPARAGRAPH: {1}", "\n\n", NOT_KNOWN)

    return _f1_task(name, "QuAC", QUAC, read, file, shots, num_shots, limit, seed, prompt_types, max_new_tokens)


def _f1_task(
    name: str, title: str, instruction: str, read: Any, file: str | Path, shots: str | Path | None, num_shots: int,
    limit: int | None, seed: int, prompt_types: Sequence[str] | None, max_new_tokens: int,
) -> Task:  # fmt: skip
    def measure(questions: Sequence[Question], answers: Answers) -> Measured:
        return _against(questions, answers, {"f1": squad_f1, "exact": squad_exact})

    return completion_task(
        name=name, title=title, instruction=instruction, read=read, file=file, shots=shots, num_shots=num_shots,
        limit=limit, seed=seed, prompt_types=prompt_types, max_new_tokens=max_new_tokens, metric="f1",
        unit="F1, 0 to 100", measure=measure,
    )  # fmt: skip


def _against(questions: Sequence[Question], answers: Answers, scores: Mapping[str, Any]) -> Measured:
    rows = {
        metric: [100 * best(score, a[0], q.references) for q, a in zip(questions, answers, strict=True)]
        for metric, score in scores.items()
    }
    return Measured(rows, columns=dict(rows))


Turn = tuple[str, list[str]]
Paragraph = tuple[str, str, list[Turn]]


def _squad_paragraphs(name: str, file: str | Path, key: str) -> list[Paragraph] | None:
    """(title, text, [(question, answers)]) of a file in SQuAD's nested form or as flat rows; ``None`` for neither."""
    nested = read_nested(name, file, key)
    if nested is not None:
        try:
            return [
                (
                    str(article["title"]).replace("CANNOTANSWER", "").strip(),
                    str(paragraph["context"]).replace("CANNOTANSWER", "").strip(),
                    [(str(qa["question"]), [str(a["text"]) for a in qa.get("answers", ())]) for qa in paragraph["qas"]],
                )
                for article in nested
                for paragraph in article["paragraphs"]
            ]
        except (KeyError, TypeError) as error:
            raise UserError(f"{file}: an article or paragraph lacks {error}, for benchmarks.{name}.{key}") from error
    flat = ("title", "context", "question", "answers")
    rows = read_rows(name, file, flat, ("context", "ref_text"), key=key)
    if not set(flat) <= set(rows[0]):
        return None
    found: dict[tuple[str, str], list[Turn]] = {}
    for number, row in enumerate(rows, 1):
        title, text, question = (text_of(name, file, row, column, number) for column in flat[:3])
        found.setdefault((title, text), []).append((question, _texts(row["answers"])))
    return [(title, text, turns) for (title, text), turns in found.items()]


def _turns(paragraphs: Sequence[Paragraph], head: str, gap: str, unknown: str) -> list[Example]:
    found = []
    for title, text, turns in paragraphs:
        so_far = head.format(title, text)
        for question, answers in turns:
            known = [answer for answer in dict.fromkeys(answers) if answer != "CANNOTANSWER"] or [unknown]
            asked = f"{so_far}{gap}Q: {question}{gap}A:"
            found.append(Example(asked, tuple(known), f"{title}\n{text}"))
            so_far = f"{asked} {known[0]}"
    return found


def _texts(answers: Any) -> list[str]:
    """Answers as a list, as ``{"text": list}``, or as text with vertical bars."""
    if isinstance(answers, Mapping):
        answers = answers.get("text", ())
    return alternatives(answers) if isinstance(answers, str) else [str(answer) for answer in answers]
