"""What the model card says of benchmarks: every figure with its interval, and the alignment tax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lightning.evaluation.wording import model_title
from rlhf_lightning.models import card_section


def benchmark_sections(report: Mapping[str, Any]) -> list[str]:
    """Sections of ``MODEL_CARD.md`` from what :func:`~rlhf_lightning.evaluation.benchmarks.evaluate_benchmarks` found;
    none without benchmarks."""
    parts = []
    for benchmark in (report.get("benchmarks") or {}).values():
        title = f"{benchmark['title']}: {benchmark['rows']} of {benchmark['available']} rows of {benchmark['file']}"
        rows = [
            (model_title(model), prompt_type, metric.replace("_", " "), _number(found["value"]), _between(found))
            for prompt_type, cells in benchmark["results"].items()
            for model, figures in cells.items()
            for metric, found in figures.items()
        ]
        parts.append(card_section(title, ("model", "prompt", "metric", "value", "95 % interval"), rows))
    losses = [
        (model_title(name), _number(values["text_loss"]))
        for name, values in report["models"].items()
        if values.get("text_loss") is not None
    ]
    parts.append(card_section("Loss on held-out text", ("model", "nats a token"), losses))
    tax = [
        (model_title(row["model"]), model_title(row["reference"]), row["title"], row["prompt_type"] or "–",
         row["metric"], _number(row["difference"]), _between(row))
        for row in report.get("tax") or ()
    ]  # fmt: skip
    columns = ("model", "less", "task", "prompt", "metric", "difference", "95 % interval")
    return [*parts, card_section("Alignment tax", columns, tax)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _between(found: Mapping[str, Any]) -> str:
    bounds = found.get("interval")
    return "–" if not bounds else f"{_number(bounds[0])} to {_number(bounds[1])}"
