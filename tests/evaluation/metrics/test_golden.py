"""G1 to G11: the metrics over OpenAI's released samples, against values that other implementations gave.

The samples carry no licence, so they lie outside of the repository, and so do the golden values.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.evaluation.benchmarks import cut_at_newline
from rlhf_lightning.evaluation.metrics import (
    alternatives,
    best,
    corpus_bleu,
    correlation,
    drop_f1,
    rouge,
    squad_exact,
    squad_f1,
    toxicity,
    truthfulness,
)

SHARED = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[4] / "shared"))
pytestmark = pytest.mark.shared_data

Cell = tuple[str, str]
Rows = list[dict[str, str]]
MODELS = [f"{kind}-{size}" for kind in ("gpt", "sft", "ppo-noptx", "ppo-ptx") for size in ("xl", "6b", "175b")]


def read(name: str) -> Rows:
    file = SHARED / "data" / "eval" / f"instructgpt_{name}_samples.csv"
    if not file.is_file():
        pytest.skip(f"no released samples in {SHARED}; set RLHF_SHARED to their folder")
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def golden(name: str, key: str) -> dict[Cell, float]:
    values = json.loads((SHARED / "paper" / "golden.json").read_text())["files"][name][key]
    cells = {}
    for label, value in values.items():
        prompt, _, model = label.rpartition("/")
        cells[prompt, model] = value
    return cells


def by_cell(rows: Rows) -> dict[Cell, Rows]:
    cells: dict[Cell, Rows] = {}
    for row in rows:
        cells.setdefault((row.get("prompt_type", ""), row["model_type"]), []).append(row)
    return cells


def means(rows: Rows, score: Callable[[Rows], list[float]]) -> dict[Cell, float]:
    found = {cell: score(own) for cell, own in by_cell(rows).items()}
    return {cell: sum(values) / len(values) for cell, values in found.items()}


def over_references(score: Callable[[str, str], float]) -> Callable[[Rows], list[float]]:
    return lambda rows: [100 * best(score, row["sample"], alternatives(row["ref_text"])) for row in rows]


def paper(task: str, metric: str, prompts: dict[str, str]) -> dict[Cell, float]:
    """Table 14's cells of a task; ``prompts``: its name of a prompt type for that of the samples."""
    with (SHARED / "paper" / "table14.csv").open(newline="") as lines:
        table = {(row["task"], row["metric"], row["prompt"]): row for row in csv.DictReader(lines)}
    return {
        (ours, model): float(table[task, metric, theirs][model]) for ours, theirs in prompts.items() for model in MODELS
    }


@pytest.mark.parametrize(
    ("name", "f1", "exact", "cells"), [("squadv2", 51.6613, 43.7083, 24), ("drop", 34.8737, 21.5417, 24)]
)
def test_g1_squad_f1_and_exact_match(name: str, f1: float, exact: float, cells: int) -> None:
    rows = read(name)
    for score, key, whole in ((squad_f1, "squad_f1_max", f1), (squad_exact, "em_max", exact)):
        found = means(rows, over_references(score))
        assert len(found) == cells
        assert sum(found.values()) / cells == pytest.approx(whole, abs=1e-4)
        if name == "squadv2":  # golden.json has no cells of drop
            assert found == pytest.approx(golden(name, key), abs=1e-4)


def test_g2_drop_f1_is_not_squad_f1() -> None:
    rows = read("drop")
    drop, squad = over_references(drop_f1)(rows), over_references(squad_f1)(rows)
    assert sum(drop) / len(drop) == pytest.approx(35.0283, abs=1e-4)
    apart = [abs(a - b) for a, b in zip(drop, squad, strict=True)]
    # EVALUATION.md counts 262 rows that are more than a point apart; by our count there is one more, whose 20.00 and
    # 21.05 are a point apart where both are rounded to two decimals of one.
    assert (sum(d > 1 for d in apart), sum(d > 1.1 for d in apart)) == (263, 262)


def bleu_cells(rows: Rows) -> dict[Cell, float]:
    return {
        cell: corpus_bleu([r["sample"] for r in own], [r["ref_text"] for r in own], resamples=1).score
        for cell, own in by_cell(rows).items()
    }


def test_g3_corpus_bleu() -> None:
    import sacrebleu

    rows = read("fr_to_en")
    found = bleu_cells(rows)
    assert len(found) == 24
    assert found["zeroshot", "gpt-175b"] == pytest.approx(35.88, abs=0.005)
    assert found["fewshot", "gpt-175b"] == pytest.approx(34.88, abs=0.005)
    for cell, own in by_cell(rows).items():
        theirs = sacrebleu.corpus_bleu([r["sample"] for r in own], [[r["ref_text"] for r in own]], tokenize="13a")
        assert found[cell] == pytest.approx(theirs.score, abs=1e-4)


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_g4_rouge(kind: str, stem: bool) -> None:
    def score(rows: Rows) -> list[float]:
        answers, references = [r["sample"] for r in rows], [r["ref_text"] for r in rows]
        return rouge(answers, references, kinds=[kind], stem=stem)[kind]

    assert means(read("tldr"), score) == pytest.approx(golden("tldr", f"{kind}_f_joined_stem{int(stem)}"), abs=1e-5)


def truth_cells(rows: Rows, key: str) -> dict[Cell, float]:
    return means(rows, lambda own: truthfulness([float(r["true"]) for r in own], [float(r["info"]) for r in own])[key])


def test_g5_truthful_qa_rates() -> None:
    rows = read("truthful_qa")
    for key, name in (("true", "true_rate"), ("info", "info_rate"), ("true_and_info", "true_and_info_rate")):
        found = truth_cells(rows, key)
        assert len(found) == 36
        assert found == pytest.approx(golden("truthful_qa", name), abs=1e-9)
    assert truth_cells(rows, "true")["QA prompt", "ppo-ptx-175b"] == pytest.approx(0.63)
    assert truth_cells(rows, "true_and_info")["QA prompt", "ppo-ptx-175b"] == pytest.approx(0.61)


def toxic_cells(rows: Rows, key: str = "toxicity") -> dict[Cell, float]:
    return means(rows, lambda own: toxicity([[float(r["toxicity"])] for r in own])[key])


def test_g6_toxicity() -> None:
    rows = read("real_toxicity")
    found = toxic_cells(rows)
    assert len(found) == 36
    assert found == pytest.approx(golden("real_toxicity", "mean_toxicity"), abs=1e-6)
    assert toxic_cells(rows, "toxic") == pytest.approx(golden("real_toxicity", "toxic_rate_0.5"), abs=1e-9)
    assert found["respectful prompt", "gpt-175b"] == pytest.approx(0.195, abs=5e-4)
    assert found["respectful prompt", "ppo-ptx-175b"] == pytest.approx(0.173, abs=5e-4)


SHOTS = {"zeroshot": "zero-shot", "fewshot": "few-shot"}
# Table 14 has the rows of the two instruction prompts exchanged.
SWAPPED = {"QA prompt": "QA prompt", "instruction prompt": "QA + instruct", "QA + instruction": "instruction"}
UNSWAPPED = {"QA prompt": "QA prompt", "instruction prompt": "instruction", "QA + instruction": "QA + instruct"}


def test_g7_the_samples_correlate_with_table_14() -> None:
    basic = {f"{name} prompt": name for name in ("basic", "respectful", "biased")}
    pairs: dict[str, tuple[Any, Any]] = {
        "squadv2": (means(read("squadv2"), over_references(squad_f1)), paper("SQuADv2", "f1", SHOTS)),
        "drop": (means(read("drop"), over_references(drop_f1)), paper("DROP", "f1", SHOTS)),
        "bleu": (bleu_cells(read("fr_to_en")), paper("FR-EN 15", "BLEU", SHOTS)),
        "toxicity": (toxic_cells(read("real_toxicity")), paper("Real Toxicity", "toxicity", basic)),
    }
    for name, (ours, theirs) in pairs.items():
        assert correlation(ours, theirs) >= 0.95, name


@pytest.mark.parametrize(("ours", "theirs"), [("true", "true"), ("true_and_info", "true + info")])
def test_g7_truthful_qa_correlates_with_the_exchanged_rows_alone(ours: str, theirs: str) -> None:
    found = truth_cells(read("truthful_qa"), ours)
    assert correlation(found, paper("Truthful QA", theirs, SWAPPED)) >= 0.95
    assert correlation(found, paper("Truthful QA", theirs, UNSWAPPED)) < 0.85


@pytest.mark.parametrize("name", ["drop", "squadv2", "fr_to_en", "tldr", "real_toxicity", "truthful_qa"])
def test_g8_the_newline_cut_changes_no_sample(name: str) -> None:
    column = "answer" if name == "truthful_qa" else "sample"
    for row in read(name):
        assert cut_at_newline(row[column]) == row[column]


def test_g9_no_comment_is_true_but_not_always_uninformative() -> None:
    rows = [row for row in read("truthful_qa") if row["answer"].strip(" .").lower() == "i have no comment"]
    assert len(rows) == 592
    assert all(float(row["true"]) >= 0.5 for row in rows)
    assert sum(float(row["info"]) < 0.5 for row in rows) / len(rows) == pytest.approx(0.845, abs=5e-4)


def test_g11_direction_under_prompts() -> None:
    found = toxic_cells(read("real_toxicity"))
    biased = {model: round(found["biased prompt", model], 3) for model in MODELS}
    assert (biased["ppo-noptx-175b"], biased["ppo-ptx-175b"], biased["gpt-175b"]) == (0.411, 0.329, 0.244)
    for size in ("xl", "6b", "175b"):
        assert found["respectful prompt", f"sft-{size}"] < found["respectful prompt", f"gpt-{size}"]


def test_the_text_none_survives() -> None:
    for name in ("drop", "squadv2"):
        assert sum(row["sample"] == "None" for row in read(name)) == 1
