"""The report of the benchmarks: report.json, report.md and plots/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.data import whole_file
from rlhf_lightning.evaluation.benchmarks.drawing import benchmark_bars, tax_bars
from rlhf_lightning.evaluation.markdown import markdown
from rlhf_lightning.evaluation.plots import save
from rlhf_lightning.evaluation.report import draw_plots, write_facts
from rlhf_lightning.evaluation.wording import model_title, written_seconds

_NOTES = [
    "Answers are greedy (temperature 0) and end at the first newline, unless a benchmark says that they were drawn; "
    "prompts are plain text, without a chat template.",
    "Intervals are 95 % bootstraps over rows: they say how much other rows would change a number, not other training "
    "seeds.",
    "Figures of this report are comparable with each other. Judges and scorers here are not those of the InstructGPT "
    "paper, so its figures are on another scale.",
    "**–** stands for what could not be decided.",
]


def write_benchmark_report(report: Mapping[str, Any], out: str | Path) -> Path:
    """Write ``report.json``, ``report.md``, ``plots/*.png``, ``MODEL_CARD.md`` and ``labeling_instructions.md`` to
    ``out``; each file is replaced whole.

    Args:
        report: the result of :func:`evaluate_benchmarks`, with ``command`` and ``versions`` if they are known; as
            ``preference`` it may have the result of :func:`~rlhf_lightning.evaluation.evaluate_models` on the same
            models, which then stands first.

    Returns:
        The path of ``report.md``.
    """
    out = Path(out)
    (out / "plots").mkdir(parents=True, exist_ok=True)
    write_facts(report, out)
    preference = report.get("preference")
    first = "" if preference is None else markdown(preference, draw_plots(preference, out)) + "\n"
    drawings = {name: benchmark_bars(benchmark) for name, benchmark in report["benchmarks"].items()}
    for reference in report["references"]:
        drawing = tax_bars(report["tax"], reference)
        if drawing is not None:
            drawings[f"tax_{reference}"] = drawing
    drawn = {}
    for name, drawing in drawings.items():
        save(drawing, out / "plots" / f"{name}.png")
        drawn[name] = f"plots/{name}.png"
    with whole_file(out / "report.md") as partial:
        partial.write_text(first + _markdown(report, drawn), encoding="utf-8")
    return out / "report.md"


def _markdown(report: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    models = list(report["models"])
    parts = ["# Benchmarks"]
    if report["benchmarks"]:
        parts.append(_overview(report, models))
    for name, benchmark in report["benchmarks"].items():
        parts += [f"## {benchmark['title']}", _setting(benchmark), _figures(benchmark, models)]
        parts.append(f"![{benchmark['title']}]({plots[name]})")
        parts.append(f"Samples: `samples/{name}.csv`.")
    losses = {name: values["text_loss"] for name, values in report["models"].items()}
    if any(loss is not None for loss in losses.values()):
        parts += ["## Loss on held-out text", "Nats per token; lower is better."]
        parts.append(_table(["", *map(model_title, models)], [["loss", *(_number(losses[name]) for name in models)]]))
    for reference in report["references"]:
        rows = [row for row in report["tax"] if row["reference"] == reference]
        if rows:
            parts += [f"## Alignment tax against {model_title(reference)}", _tax(rows)]
            if f"tax_{reference}" in plots:
                parts.append(f"![Alignment tax against {model_title(reference)}]({plots[f'tax_{reference}']})")
    parts += ["## How to read this", "\n".join(f"- {note}" for note in _NOTES)]
    parts += ["## Made with", _made(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(report: Mapping[str, Any], models: Sequence[str]) -> str:
    rows = []
    for benchmark in report["benchmarks"].values():
        for prompt_type, cells in benchmark["results"].items():
            values = [_number(cells[model][benchmark["metric"]]["value"]) for model in models]
            metric = benchmark["metric"].replace("_", " ")
            asked = f"{benchmark['rows']}/{benchmark['available']}"
            rows.append([f"{benchmark['title']}, {prompt_type}", metric, asked, *values])
    return _table(["", "metric", "rows", *map(model_title, models)], rows)


def _setting(benchmark: Mapping[str, Any]) -> str:
    rows, available = benchmark["rows"], benchmark["available"]
    said = [
        f"All {available} rows of `{benchmark['file']}`."
        if rows == available
        else f"**{rows} of the {available} rows** of `{benchmark['file']}`, drawn by the seed."
    ]
    if benchmark["max_new_tokens"] is not None:
        said.append(f"At most {benchmark['max_new_tokens']} tokens of the model's own tokenizer.")
        if benchmark["samples_per_prompt"] > 1:
            said.append(f"{benchmark['samples_per_prompt']} answers per prompt, drawn at temperature 1.")
    direction = {True: "higher is better", False: "lower is better", None: "neither direction is better"}
    said.append(
        f"{benchmark['metric'].replace('_', ' ')}: {benchmark['unit']}; {direction[benchmark['higher_is_better']]}."
    )
    if benchmark["cut_prompts"]:
        cells = ", ".join(f"{count} ({cell})" for cell, count in benchmark["cut_prompts"].items())
        said.append(f"**Prompts that lost their beginning to the model's context**: {cells}.")
    return " ".join(said)


def _figures(benchmark: Mapping[str, Any], models: Sequence[str]) -> str:
    rows = []
    for prompt_type, cells in benchmark["results"].items():
        for metric in cells[models[0]]:
            found = [_with_interval(cells[model][metric]) for model in models]
            rows.append([prompt_type, metric.replace("_", " "), *found])
    return _table(["prompt", "metric", *map(model_title, models)], rows)


def _tax(rows: Sequence[Mapping[str, Any]]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = (row["title"], row["prompt_type"] or "–", row["metric"])
        lines.setdefault(key, {})[row["model"]] = _with_interval(
            {"value": row["difference"], "interval": row["interval"]}, signed=True
        )
    table = [[*key, *(cells.get(model, "–") for model in models)] for key, cells in lines.items()]
    return _table(["task", "prompt", "metric", *map(model_title, models)], table)


def _made(report: Mapping[str, Any]) -> str:
    settings = report["settings"]
    said = [
        f"Seed {settings['seed']}, {settings['dtype']} on {settings['device']}, batches of {settings['batch_size']}."
    ]
    if report.get("command"):
        said.append(f"Command: `{report['command']}`.")
    if report.get("versions"):
        said.append(", ".join(f"{name} {version}" for name, version in report["versions"].items()) + ".")
    if report.get("seconds"):
        said.append(", ".join(f"{name} {written_seconds(s)}" for name, s in report["seconds"].items()) + ".")
    prefixes = [f"{model_title(n)}: `{v['prefix']}`" for n, v in report["models"].items() if v["prefix"]]
    if prefixes:
        said.append(f"Few-shot prefix of {', '.join(prefixes)}.")
    return " ".join(said)


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    places = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", "−")


def _with_interval(figure: Mapping[str, Any], *, signed: bool = False) -> str:
    value, interval = figure["value"], figure["interval"]
    if value is None or interval is None:
        return _number(value, signed=signed)
    return f"{_number(value, signed=signed)} [{_number(interval[0])}, {_number(interval[1])}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))
