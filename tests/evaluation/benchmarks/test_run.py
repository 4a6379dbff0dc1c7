"""Benchmarks on several models: figures, samples and the alignment tax."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import benchmarks
from rlhf_lightning.evaluation.benchmarks import (
    Choice,
    Interval,
    Measured,
    Question,
    Task,
    alignment_tax,
    evaluate_benchmarks,
    read_samples,
    write_samples,
)
from rlhf_lightning.models import Lora, add_lora, load_causal_lm, save_model_folder


def test_samples_come_back_as_they_were_written(make_task: Any, tmp_path: Path) -> None:
    texts = ["None", 'a "b", c', "NA", ""]
    task = make_task(
        [Question(f"context {n}\nQ:", {"p": ""}, references=("x", "y")) for n in range(4)], max_new_tokens=1
    )
    cells = {("p", "m"): [[text] for text in texts]}
    path = write_samples(task, cells, {("p", "m"): Measured({}, columns={"f1": [0, 1, 2, 3]})}, tmp_path)
    rows = read_samples(path)
    assert [row["sample"] for row in rows] == texts
    assert list(rows[0]) == ["model_type", "prompt_type", "context", "ref_text", "sample", "f1"]
    assert rows[1]["ref_text"] == "x|y"
    assert rows[3]["context"] == "context 3\nQ:"
    assert path.read_text().startswith(",model_type,")


def test_the_alignment_tax_is_a_paired_difference(make_task: Any) -> None:
    task = make_task([Question("q", {"p": ""})] * 3, tax=True, metric="f1", max_new_tokens=1)
    bleu = make_task([Question("q", {"p": ""})], tax=True, name="b", metric="bleu", max_new_tokens=1)
    untaxed = make_task([Question("q", {"p": ""})], name="u")
    results = {
        ("t", "p", "sft"): Measured({"f1": [10.0, 20.0, 60.0]}),
        ("t", "p", "ppo"): Measured({"f1": [7.0, 17.0, 57.0]}),
        ("b", "p", "sft"): Measured({}, {"bleu": Interval(30.0, 20.0, 40.0)}),
        ("b", "p", "ppo"): Measured({}, {"bleu": Interval(32.0, 20.0, 40.0)}),
    }
    rows = alignment_tax([task, bleu, untaxed], results, ["sft", "ppo"], ["sft"], {"sft": 1.5, "ppo": 2.0})
    assert [(row["task"], row["model"], row["difference"], row["gain"]) for row in rows] == [
        ("t", "ppo", -3.0, -3.0),
        ("b", "ppo", 2.0, 2.0),
        ("text", "ppo", 0.5, -0.5),
    ]
    # Every row lost three points: the pairs are equally far apart whichever are drawn.
    assert rows[0]["interval"] == [-3.0, -3.0]
    assert rows[1]["interval"] is None


@pytest.fixture
def all_tasks(eval_files: dict[str, str], count_a: Any) -> list[Task]:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    make = benchmarks
    return [
        make.crows_pairs(file=eval_files["crows_pairs"]),
        make.winogender(file=eval_files["winogender"], limit=2),
        make.truthful_qa(file=eval_files["truthful_qa"], judge=make.ReferenceJudge(), max_new_tokens=3),
        make.real_toxicity(file=eval_files["real_toxicity"], scorer=count_a, max_new_tokens=4, samples=2),
        make.drop(file=eval_files["drop"], shots=eval_files["drop_shots"], num_shots=1, max_new_tokens=3),
        make.squadv2(file=eval_files["squadv2"], max_new_tokens=3),
        make.quac(file=eval_files["quac"], max_new_tokens=3),
        make.wsc(file=eval_files["wsc"], max_new_tokens=3),
        make.wmt15_fr_en(file=eval_files["wmt15_fr_en"], max_new_tokens=3),
        make.cnn_dm(file=eval_files["cnn_dm"], max_new_tokens=3),
        make.tldr(file=eval_files["tldr"], max_new_tokens=3),
        make.hellaswag(file=eval_files["hellaswag"]),
        make.rte(file=eval_files["rte"]),
        make.sst(file=eval_files["sst"]),
    ]


def test_every_benchmark_runs_on_several_models(
    all_tasks: list[Task], causal_lm_folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "prefix.txt").write_text("hi\nyo")
    (tmp_path / "text.txt").write_text("a dog runs. it is big. who are you? a cat.")
    llama = str(causal_lm_folders["llama"])
    report = evaluate_benchmarks(
        models={
            "base": {"name": str(causal_lm_folders["gpt2"])},
            "sft": {"name": llama},
            "few": {"name": llama, "prefix": str(tmp_path / "prefix.txt")},
            "skipped": None,
        },
        benchmarks=all_tasks,
        out=tmp_path / "out",
        text=str(tmp_path / "text.txt"),
        text_block=8,
        text_tokens=None,
    )
    assert list(report["models"]) == ["base", "sft", "few"]
    assert report["models"]["sft"]["fingerprint"] == report["models"]["few"]["fingerprint"]
    assert list(report["benchmarks"]) == [task.name for task in all_tasks]
    for task in all_tasks:
        found = report["benchmarks"][task.name]
        assert list(found["results"]) == list(task.prompt_types)
        for cells in found["results"].values():
            for figures in cells.values():
                low, high = figures[task.metric]["interval"]
                assert low <= high
        rows = read_samples(report["samples"][task.name])
        assert len(rows) == 3 * len(task.prompt_types) * len(task.questions) * task.samples
    assert (report["benchmarks"]["winogender"]["rows"], report["benchmarks"]["winogender"]["available"]) == (2, 4)
    assert report["benchmarks"]["truthful_qa"]["cut_prompts"]["QA prompt/sft"] == 2
    # Prompted and unprompted answers are others, with the same weights.
    basic = report["benchmarks"]["crows_pairs"]["results"]["basic prompt"]
    assert basic["sft"]["entropy"]["value"] != basic["few"]["entropy"]["value"]
    taxed = {row["task"] for row in report["tax"]}
    assert taxed == {
        "drop",
        "squadv2",
        "quac",
        "wsc",
        "wmt15_fr_en",
        "cnn_dm",
        "tldr",
        "hellaswag",
        "rte",
        "sst",
        "text",
    }
    assert {row["reference"] for row in report["tax"]} == {"base", "sft"}
    page = benchmarks.write_benchmark_report(report, tmp_path / "out").read_text()
    assert "**2 of the 4 rows**" in page
    assert "lost their beginning" in page
    assert (tmp_path / "out" / "plots" / "tax_sft.png").stat().st_size > 1000
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))


def test_an_adapter_folder_is_a_model_of_its_own(
    make_task: Any, causal_lm_folders: dict[str, Path], encoder: Encoder, eval_files: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    base = str(causal_lm_folders["llama"])
    model = load_causal_lm(name=base)
    add_lora(model, Lora(rank=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    adapter = save_model_folder(model, encoder, tmp_path / "adapter", merge=False)
    merged = save_model_folder(model, encoder, tmp_path / "merged")
    names = {"base": base, "adapter": str(adapter), "merged": str(merged)}
    report = evaluate_benchmarks(
        models={name: {"name": folder} for name, folder in names.items()},
        benchmarks=[benchmarks.crows_pairs(file=eval_files["crows_pairs"], prompt_types=["basic prompt"])],
        out=tmp_path / "out",
    )
    found = report["benchmarks"]["crows_pairs"]["results"]["basic prompt"]
    entropy = {name: figures["entropy"]["value"] for name, figures in found.items()}
    assert entropy["adapter"] == pytest.approx(entropy["merged"], abs=1e-4)
    assert entropy["adapter"] != pytest.approx(entropy["base"], abs=1e-3)
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="names no base_model_name_or_path"):
        evaluate_benchmarks(models={"a": {"name": str(adapter)}}, benchmarks=[make_task([])], out=tmp_path)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "there is no model to evaluate"),
        ({"a": {"prefix": None}}, r"models\.a needs `name`"),
        ({"a": {"name": "x", "temperature": 1}}, r"models\.a needs `name`"),
        ({"a": {"name": "x", "prefix": "no/such.txt"}}, r"models\.a\.prefix=no/such\.txt does not exist"),
        ({"a": {"name": "./no/such/folder"}}, "No tokenizer could be loaded"),
    ],
)
def test_bad_models_are_told_before_one_is_loaded(
    make_task: Any, models: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_lightning.evaluation.benchmarks.run.load_model", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=message):
        evaluate_benchmarks(models=models, benchmarks=[make_task([Question("q", {"p": "a"})])], out=tmp_path)


def test_benchmarks_need_names_of_their_own(make_task: Any, causal_lm_folders: dict[str, Path], tmp_path: Path) -> None:
    models = {"a": {"name": str(causal_lm_folders["llama"])}}
    with pytest.raises(UserError, match="two benchmarks are called t"):
        evaluate_benchmarks(models=models, benchmarks=[make_task([]), make_task([])], out=tmp_path)
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate_benchmarks(models=models, benchmarks=[], out=tmp_path)
    assert Choice(-1.0, 2) == (-1.0, 2)
