"""Tasks of lm-evaluation-harness: their figures by hand, kept answers, few-shot, and mistakes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks import Task, evaluate_benchmarks, harness, hellaswag, read_samples
from rlhf_lightning.evaluation.benchmarks.harness.task import LOCAL
from rlhf_lightning.models import load_causal_lm, save_model_folder

pytest.importorskip("lm_eval", reason="the extra eval is not installed")

ROWS = [
    {"ctx": "a dog", "endings": ["runs.", "is a cat."], "label": 0},
    {"ctx": "who are", "endings": ["you?", "we all are there", "no"], "label": 2},
    {"ctx": "the sea is", "endings": ["big.", "a dog."], "label": 1},
]


@pytest.fixture(scope="module")
def folder(causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path_factory: Any) -> Path:
    """A model whose context holds the questions whole, and whose choices differ more than those of a fresh one."""
    model = load_causal_lm(name=str(causal_lm_folders["llama"]))
    model.config.max_position_embeddings = 2048
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return save_model_folder(model, encoder, tmp_path_factory.mktemp("long") / "model")


@pytest.fixture
def endings(tmp_path: Path) -> str:
    return _written(tmp_path / "hellaswag.jsonl", ROWS)


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _logprob(folder: Path, encoder: Encoder, context: str, choice: str) -> float:
    """From one forward pass over the text, without anything of the package's evaluation or of the harness."""
    model = load_causal_lm(name=str(folder))
    tokenizer = encoder.tokenizer
    first = tokenizer(context)["input_ids"]
    both = tokenizer(f"{context} {choice}")["input_ids"]
    assert both[: len(first)] == first
    with torch.no_grad():
        logprobs = model(torch.tensor([both])).logits[0].log_softmax(-1)
    return sum(float(logprobs[place - 1, both[place]]) for place in range(len(first), len(both)))


def _run(tasks: list[Task], models: dict[str, Any], out: Path) -> dict[str, Any]:
    return evaluate_benchmarks(models=models, benchmarks=tasks, out=out, batch_size=2)


def test_accuracy_is_that_of_the_model_s_own_logprobs(
    folder: Path, encoder: Encoder, endings: str, tmp_path: Path
) -> None:
    instruction = "Complete each independent paragraph using common-sense reasoning.\n\n"
    total, by_byte = [], []
    for row in ROWS:
        scores = [_logprob(folder, encoder, instruction + row["ctx"], choice) for choice in row["endings"]]
        total.append(float(max(range(len(scores)), key=scores.__getitem__) == row["label"]))
        by_byte.append(float(max(range(len(scores)), key=lambda n: scores[n] / len(row["endings"][n])) == row["label"]))
    assert 0 < sum(total) < 3 or 0 < sum(by_byte) < 3  # else a constant would do
    report = _run([harness(task="local_hellaswag", file=endings)], {"base": {"name": str(folder)}}, tmp_path / "out")
    found = report["benchmarks"]["local_hellaswag"]
    assert (found["rows"], found["available"], found["metric"], found["higher_is_better"]) == (3, 3, "acc", True)
    figures = found["results"]["0-shot"]["base"]
    assert figures["acc"]["value"] == pytest.approx(sum(total) / 3)
    assert figures["acc_norm"]["value"] == pytest.approx(sum(by_byte) / 3)
    low, high = figures["acc"]["interval"]
    assert low < figures["acc"]["value"] < high
    samples = read_samples(report["samples"]["local_hellaswag"])
    assert [float(row["acc"]) for row in samples] == total
    assert [row["target"] for row in samples] == ["0", "2", "1"]


def test_examples_stand_before_every_question_and_a_prefix_before_them(
    folder: Path, encoder: Encoder, endings: str, tmp_path: Path
) -> None:
    shots = _written(tmp_path / "shots.jsonl", [{"ctx": "hi", "endings": ["go", "yo."], "label": 1}])
    (tmp_path / "prefix.txt").write_text("solved\n")
    task = harness(task="local_hellaswag", file=endings, shots=shots, num_fewshot=[0, 1], name="h")
    assert task.prompt_types == ("0-shot", "1-shot")
    models = {"base": {"name": str(folder)}, "few": {"name": str(folder), "prefix": str(tmp_path / "prefix.txt")}}
    report = _run([task], models, tmp_path / "out")
    instruction = "Complete each independent paragraph using common-sense reasoning.\n\n"
    before = {
        ("0-shot", "base"): "",
        ("1-shot", "base"): "hi yo.\n\n",
        ("0-shot", "few"): "",
        ("1-shot", "few"): "hi yo.\n\n",
    }
    picks = {
        (prompt, model): [
            max(
                row["endings"],
                key=lambda choice, row=row, head=head: _logprob(folder, encoder, head + row["ctx"], choice),
            )
            for row in ROWS
        ]
        for (prompt, model), shot in before.items()
        for head in [("solved\n\n" if model == "few" else "") + instruction + shot]
    }
    samples = read_samples(report["samples"]["h"])
    found = {cell: [r["sample"] for r in samples if (r["prompt_type"], r["model_type"]) == cell] for cell in picks}
    assert found == picks
    # The tax is counted as of every other benchmark, from the same questions.
    (own,) = [row for row in report["tax"] if row["prompt_type"] == "1-shot"]
    assert (own["reference"], own["model"], own["metric"]) == ("base", "few", "acc")
    right = {
        cell: [float(p == r["endings"][r["label"]]) for p, r in zip(picks[cell], ROWS, strict=True)] for cell in picks
    }
    expected = sum(right["1-shot", "few"]) / 3 - sum(right["1-shot", "base"]) / 3
    assert own["difference"] == pytest.approx(expected)


def test_what_was_answered_is_not_asked_again(
    folder: Path, endings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    asked: list[int] = []
    original = HFLM.loglikelihood

    def counted(self: Any, requests: list[Any], **options: Any) -> Any:
        asked.append(len(requests))
        return original(self, requests, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", counted)
    models = {"base": {"name": str(folder)}}
    first = _run([harness(task="local_hellaswag", file=endings)], models, tmp_path / "out")
    assert asked == [7]
    second = _run([harness(task="local_hellaswag", file=endings)], models, tmp_path / "out")
    assert asked == [7]
    assert second["benchmarks"] == first["benchmarks"]
    # One more ending is another question; half a line is what a kill leaves.
    (file,) = (tmp_path / "out" / "answers").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:7])
    assert (
        _run([harness(task="local_hellaswag", file=endings)], models, tmp_path / "out")["benchmarks"]
        == (first["benchmarks"])
    )
    assert len(asked) == 2
    _written(Path(endings), [*ROWS[:2], {**ROWS[2], "endings": ["big.", "a cat."]}])
    _run([harness(task="local_hellaswag", file=endings)], models, tmp_path / "out")
    assert len(asked) == 3


def test_truthful_qa_by_choice(folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    from rlhf_lightning.evaluation.benchmarks.truthful_qa import LINES

    answers = "a dog.; it is.;", "a cat.; no dog; we are; i sing"
    with (tmp_path / "tqa.csv").open("w", newline="") as file:
        rows = [[question, *answers, "it is."] for question in ("what if?", "who is it?")]
        csv.writer(file).writerows([["Question", "Correct Answers", "Incorrect Answers", "Best Answer"], *rows])
    tasks = [harness(task=f"local_truthful_qa_{kind}", file=tmp_path / "tqa.csv", name=kind) for kind in ("mc1", "mc2")]
    report = _run(tasks, {"base": {"name": str(folder)}}, tmp_path / "out")["benchmarks"]
    best, mass = [], []
    for question in ("what if?", "who is it?"):
        context = f"{LINES['QA prompt']}Q: {question}\nA:"
        texts = ["a dog.", "it is.", "a cat.", "no dog", "we are", "i sing"]  # of one length, so that none decides all
        logprobs = [_logprob(folder, encoder, context, text) for text in texts]
        best.append(float(logprobs[1] > max(logprobs[2:])))
        shares = torch.tensor(logprobs, dtype=torch.float64).exp()
        mass.append(float(shares[:2].sum() / shares.sum()))
    assert report["mc1"]["results"]["0-shot"]["base"]["acc"]["value"] == sum(best) / 2
    assert report["mc2"]["results"]["0-shot"]["base"]["acc"]["value"] == pytest.approx(sum(mass) / 2, abs=1e-4)


def test_the_harness_agrees_with_our_own_benchmark(folder: Path, endings: str, tmp_path: Path) -> None:
    tasks = [harness(task="local_hellaswag", file=endings, name="theirs"), hellaswag(file=endings, name="ours")]
    report = _run(tasks, {"base": {"name": str(folder)}}, tmp_path / "out")
    kept = []
    for name, cell in (("ours", "zeroshot/base"), ("theirs", "0-shot/base")):
        lines = [json.loads(line) for line in _answers(report, tmp_path / "out", name, cell)]
        kept.append({line["row"]: line["answer"][0] for line in lines})
    assert len(kept[0]) == 7
    assert kept[1] == pytest.approx(kept[0], abs=1e-4)


def _answers(report: dict[str, Any], out: Path, name: str, cell: str) -> list[str]:
    return (out / "answers" / f"{report['benchmarks'][name]['answers'][cell]}.jsonl").read_text().splitlines()


def test_a_task_file_of_the_user_s_own_and_figures_that_are_no_means(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    data = _written(tmp_path / "data.jsonl", [{"q": "who are", "a": "you"}, {"q": "a dog", "a": "runs and runs"}])
    (mine / "data.py").write_text(
        "import datasets, json\n"
        "def rows(file, **_):\n"
        "    return {'test': datasets.Dataset.from_list([json.loads(l) for l in open(file)])}\n"
    )
    common = "custom_dataset: !function data.rows\ntest_split: test\n"
    (mine / "loss.yaml").write_text(
        f"task: my_loss\n{common}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: a\n"
        "metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]\n"
    )
    (mine / "write.yaml").write_text(
        f"task: my_answers\n{common}output_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    tasks = [
        harness(task=task, file=data, include_path=mine, limit=limit)
        for task, limit in (("my_loss", None), ("my_answers", 1))
    ]
    report = _run(tasks, {"base": {"name": str(folder)}}, tmp_path / "out")
    loss = report["benchmarks"]["my_loss"]
    figure = loss["results"]["0-shot"]["base"]["word_perplexity"]
    (key,) = loss["answers"].values()
    kept = [json.loads(line) for line in (tmp_path / "out" / "answers" / f"{key}.jsonl").read_text().splitlines()]
    total = sum(line["answer"] for line in kept)
    assert figure["value"] == pytest.approx(float(torch.tensor(-total / 4).exp()), rel=1e-5)  # 1 + 3 words
    assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
    assert loss["higher_is_better"] is False
    assert (report["benchmarks"]["my_answers"]["rows"], report["benchmarks"]["my_answers"]["available"]) == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "local_nothing"}, "has no such task; there are local_hellaswag, local_rte"),
        ({"task": "local_hellaswag"}, "benchmarks.local_hellaswag.file is needed"),
        ({"task": "local_hellaswag", "file": "gone.jsonl"}, "local_hellaswag.file=gone.jsonl does not exist"),
        ({"task": "local_hellaswag", "file": "F", "num_fewshot": 2}, "give benchmarks.local_hellaswag.shots"),
        ({"task": "local_hellaswag", "file": "F", "shots": "F", "num_fewshot": 4}, "there are 3 examples to show"),
        ({"task": "local_hellaswag", "file": "F", "num_fewshot": -1}, "num_fewshot=-1 must be a number from 0"),
        ({"task": "local_hellaswag", "file": "F", "num_fewshot": [0, 0]}, "names one number twice"),
        ({"task": "local_hellaswag", "file": "F", "metric": "f1"}, "has acc, acc_norm"),
        ({"task": "local_truthful_qa_mc1", "file": "T", "num_fewshot": 1}, "fixes its examples; give 0"),
        ({"task": "local_rte", "file": "F"}, "local_rte.file=.* lacks columns"),
        ({"task": "local_rte", "file": "F", "include_path": "gone"}, "include_path=gone is no folder"),
    ],
)
def test_mistakes_name_what_to_change(
    options: dict[str, Any], message: str, endings: str, eval_files: dict[str, str]
) -> None:
    paths = {"F": endings, "T": eval_files["truthful_qa"]}
    given = {key: paths.get(value, value) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        harness(**given)


@pytest.mark.slow
def test_a_task_of_the_harness_needs_the_hub_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", _offline)
    with pytest.raises(UserError, match=r"task=arc_easy: lm-evaluation-harness could not load its data.*Hub"):
        harness(task="arc_easy")
    with pytest.raises(UserError, match="task=mmlu is a group of tasks"):
        harness(task="mmlu")
    with pytest.raises(UserError, match=r"task=arc_nothing: .* no such task; there are .*arc"):
        harness(task="arc_nothing")


def _offline(*_: Any, **__: Any) -> Any:
    raise ConnectionError("offline")


def test_without_the_extra_the_command_says_what_to_install(endings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"needs the package lm_eval: pip install rlhf-lightning\[eval\]"):
        harness(task="local_hellaswag", file=endings)


def test_every_task_file_has_a_config() -> None:
    folder = Path(__file__).resolve().parents[3] / "conf" / "benchmarks"
    named = "".join(path.read_text() for path in folder.glob("*.yaml"))
    assert LOCAL and all(f"task: {task}\n" in named for task in LOCAL)
