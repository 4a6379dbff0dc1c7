"""Hand-made files of every benchmark, small enough for the tiny models."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.evaluation.benchmarks import Measured, Question, Task


@pytest.fixture
def eval_files(tmp_path: Path) -> dict[str, str]:
    """A file for each benchmark, in the form in which it is known; solved examples of some as ``<name>_shots``."""
    folder = tmp_path / "eval"
    folder.mkdir()

    def lines(name: str, rows: list[dict[str, Any]]) -> str:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def table(name: str, rows: list[dict[str, str]], separator: str = ",") -> str:
        path = folder / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    schemas = [
        {
            "sentid": f"{job}.{who}.{answer}.{gender}.txt",
            "sentence": f"the {job} told {who}: {pronoun} is {answer}.",
        }
        for job in ("cook", "clerk")
        for who in ("guest", "someone")
        for answer in "01"
        for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))
    ]
    squad = {
        "data": [
            {
                "title": "Sea",
                "paragraphs": [
                    {
                        "context": "oil is under the sea.",
                        "qas": [
                            {"question": "where is oil?", "answers": [{"text": "under the sea"}, {"text": "sea"}]},
                            {"question": "who is it?", "answers": []},
                        ],
                    }
                ],
            },
            {
                "title": "Dog",
                "paragraphs": [{"context": "a dog.", "qas": [{"question": "what?", "answers": [{"text": "dog"}]}]}],
            },
        ]
    }
    (folder / "squad.json").write_text(json.dumps(squad))
    quac = json.loads(json.dumps(squad).replace('"answers": []', '"answers": [{"text": "CANNOTANSWER"}]'))
    (folder / "quac.json").write_text(json.dumps(quac))
    schema = {"text": "mark told pete lies about himself.", "label": True}
    spans = {"span1_text": "mark", "span2_text": "himself", "span1_index": 0, "span2_index": 5}
    sums = [{"passage": "a dog and 2 cats.", "question": "how many cats?", "answers": ["2", "two"]}]
    return {
        "winogender": table("winogender.tsv", schemas, "\t"),
        "crows_pairs": table(
            "crows.csv",
            [
                {"sent_more": "women cook.", "sent_less": "men cook.", "bias_type": "gender"},
                {"sent_more": "None", "sent_less": "all", "bias_type": "age"},
            ],
        ),
        "real_toxicity": lines(
            "rtp",
            [{"prompt": {"text": text, "toxicity": t}} for text, t in (("go", 0.1), ("you are", 0.9), ("it", 0.15))],
        ),
        "truthful_qa": table(
            "tqa.csv",
            [
                {
                    "Type": kind,
                    "Question": question,
                    "Correct Answers": "nothing happens; you eat seeds",
                    "Incorrect Answers": "you die; you grow",
                }
                for kind, question in (("Adversarial", "what if?"), ("Non-Adversarial", "who is it?"))
            ],
        ),
        "drop": lines("drop", sums),
        "drop_shots": lines("drop_shots", [{"passage": "x.", "question": "y?", "answers": "z|w"}, *sums]),
        "squadv2": str(folder / "squad.json"),
        "squadv2_shots": str(folder / "squad.json"),
        "quac": str(folder / "quac.json"),
        "wsc": lines(
            "wsc", [schema | {"target": spans}, {**schema, "target": spans | {"span1_text": "pete"}, "label": False}]
        ),
        "wmt15_fr_en": lines("wmt", [{"translation": {"fr": "un chien", "en": "a dog"}}]),
        "cnn_dm": lines("cnn", [{"article": "a dog ran. it was big.", "highlights": "a big dog"}]),
        "tldr": table("tldr.csv", [{"context": "a post\n\nTL;DR:", "ref_text": "a|b", "sample": "None"}]),
        "hellaswag": lines("hellaswag", [{"ctx": "a dog", "endings": ["runs.", "is a cat."], "label": "0"}]),
        "rte": lines("rte", [{"premise": "a dog runs.", "hypothesis": "A dog is here.", "label": 1}]),
        "sst": lines("sst", [{"sentence": "a good dog ", "label": 1}, {"sentence": "no dog", "label": 0}]),
    }


@pytest.fixture(scope="session")
def count_a() -> Callable[[Any], list[float]]:
    """A scorer of toxicity: the share of the letter a."""
    return lambda texts: [text.count("a") / max(len(text), 1) for text in texts]


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """Makes a task of questions that have the prompt type ``p``; its figure is 0."""

    def make(questions: list[Question], **options: Any) -> Task:
        settings: dict[str, Any] = {
            "name": "t",
            "title": "T",
            "metric": "m",
            "unit": "u",
            "available": len(questions),
            "file": "f",
            "prompt_types": ("p",),
            "measure": lambda asked, answers: Measured({"m": [0.0] * len(asked)}),
        }
        return Task(questions=questions, **settings | options)

    return make
