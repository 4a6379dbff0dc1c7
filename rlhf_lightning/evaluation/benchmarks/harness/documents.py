"""Local files as the documents of the task files beside this module; the harness calls these functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from rlhf_lightning.evaluation.benchmarks.completion import Example
from rlhf_lightning.evaluation.benchmarks.multiple_choice import hellaswag_examples, rte_examples, sst_examples
from rlhf_lightning.evaluation.benchmarks.rows import read_rows, text_of
from rlhf_lightning.evaluation.benchmarks.truthful_qa import LINES, listed

Splits = dict[str, Dataset]


def hellaswag(*, file: str, shots: str | None = None, called: str = "hellaswag", **_: Any) -> Splits:
    """Rows as :func:`~rlhf_lightning.evaluation.benchmarks.hellaswag` takes them; ``shots`` are the solved ones."""
    return _splits(hellaswag_examples, file, shots, called)


def rte(*, file: str, shots: str | None = None, called: str = "rte", **_: Any) -> Splits:
    """Rows as :func:`~rlhf_lightning.evaluation.benchmarks.rte` takes them."""
    return _splits(rte_examples, file, shots, called)


def sst2(*, file: str, shots: str | None = None, called: str = "sst2", **_: Any) -> Splits:
    """Rows as :func:`~rlhf_lightning.evaluation.benchmarks.sst` takes them."""
    return _splits(sst_examples, file, shots, called)


def truthful_qa_mc1(*, file: str, called: str = "truthful_qa_mc1", **_: Any) -> Splits:
    """``TruthfulQA.csv``: the best answer, which stands first, against the incorrect ones."""
    return _questions(file, called, lambda row, correct: [row.get("Best Answer") or correct[0]])


def truthful_qa_mc2(*, file: str, called: str = "truthful_qa_mc2", **_: Any) -> Splits:
    """``TruthfulQA.csv``: all correct answers (``true`` so many, which stand first) against the incorrect ones."""
    return _questions(file, called, lambda row, correct: correct)


def true_mass(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """MC2 (Lin et al. 2021): ``Σ_true exp ℓ_i / Σ_all exp ℓ_i``, ℓ the log-probabilities (nats) of the answers."""
    import torch

    shares = torch.tensor([logprob for logprob, *_ in results], dtype=torch.float64).softmax(0)
    return {"acc": float(shares[: doc["true"]].sum())}


def _splits(read: Callable[[str, str, str], list[Example]], file: str, shots: str | None, called: str) -> Splits:
    asked = _dataset(read(called, file, "file"))
    # The harness wants the split of examples to be there also where none is shown.
    return {"test": asked, "shots": asked if shots is None else _dataset(read(called, shots, "shots"))}


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_list(
        [
            {"context": e.context, "choices": [choice.strip() for choice in e.choices], "gold": e.extra["label"]}
            for e in examples
        ]
    )


def _questions(file: str, called: str, true: Callable[[Mapping[str, Any], list[str]], list[str]]) -> Splits:
    docs = []
    columns = ("Question", "Correct Answers", "Incorrect Answers")
    for number, row in enumerate(read_rows(called, file, columns), 1):
        question, correct, incorrect = (text_of(called, file, row, column, number) for column in columns)
        right = true(row, listed(correct))
        choices = [*right, *listed(incorrect)]
        context = f"{LINES['QA prompt']}Q: {question}\nA:"
        docs.append({"context": context, "choices": choices, "gold": 0, "true": len(right)})
    return {"test": Dataset.from_list(docs)}
