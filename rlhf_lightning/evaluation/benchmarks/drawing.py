"""Plots of the benchmarks: bars by model and prompt type, and the alignment tax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_lightning.evaluation.plots import figure, style
from rlhf_lightning.evaluation.wording import MODEL_TITLES, model_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, for models that have no colour of their own.
_OTHERS = ("#009E73", "#CC79A7", "#F0E442", "#000000", "#56B4E9", "#D55E00", "#0072B2", "#E69F00")


def colors(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model; those of the pipeline keep theirs, and no two share one as long as they suffice."""
    found = {name: style(name)[0] for name in models if name in MODEL_TITLES}
    free = [color for color in _OTHERS if color not in found.values()] or list(_OTHERS)
    others = [name for name in models if name not in found]
    return found | {name: free[place % len(free)] for place, name in enumerate(others)}


def benchmark_bars(benchmark: Mapping[str, Any]) -> Figure:
    """The headline figure of a benchmark: a group of bars for each prompt type, a bar for each model, with its 95 %
    interval."""
    results = benchmark["results"]
    models = list(next(iter(results.values())))
    drawing, (ax,) = figure(max(6.4, 1.2 + 0.5 * len(models) * len(results)), 3.6)
    width = 0.8 / len(models)
    shades = colors(models)
    for place, model in enumerate(models):
        for group, (prompt_type, cells) in enumerate(results.items()):
            found = cells[model][benchmark["metric"]]
            if found["value"] is None:
                continue
            middle = group + (place - (len(models) - 1) / 2) * width
            label = model_title(model) if prompt_type == next(iter(results)) else None
            ax.bar(middle, found["value"], 0.92 * width, color=shades[model], label=label)
            top = found["value"]
            if found["interval"] is not None:
                low, high = found["interval"]
                ax.plot([middle, middle], [low, high], color="black", linewidth=1.2)
                top = max(top, high)
            shown = f"{found['value']:.3g}"
            ax.annotate(shown, (middle, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xticks(range(len(results)), list(results))
    ax.set_ylim(0, None if ax.get_ylim()[1] > 0 else 1)
    ax.margins(y=0.12)
    ax.set_ylabel(f"{benchmark['metric'].replace('_', ' ')}\n({benchmark['unit']})")
    ax.set_title(
        f"{benchmark['title']}: {benchmark['rows']} of {benchmark['available']} rows; line: 95 % interval", fontsize=10
    )
    ax.grid(visible=False, axis="x")
    if len(models) > 1:
        drawing.legend(frameon=False, loc="outside right upper", fontsize=9)
    return drawing


def tax_bars(tax: Sequence[Mapping[str, Any]], reference: str) -> Figure | None:
    """Gains and losses against one model, a bar for each task, prompt type and model; ``None`` without any.

    The scales of the metrics differ, so every task has a panel of its own.
    """
    rows = [row for row in tax if row["reference"] == reference and row["gain"] is not None]
    if not rows:
        return None
    tasks = list(dict.fromkeys((row["task"], row["title"], row["metric"]) for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    shades = colors(models)
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    drawing, axes = figure(4.2 * columns, 0.9 + lines * (1.0 + 0.32 * 2 * len(models)), lines, columns)
    for ax, (task, title, metric) in zip(axes, tasks, strict=False):
        own = [row for row in rows if row["task"] == task]
        labels = []
        for place, row in enumerate(reversed(own)):
            ax.barh(place, row["gain"], 0.7, color=shades[row["model"]])
            if row["interval"] is not None:
                sign = 1 if row["gain"] == row["difference"] else -1
                ax.plot([sign * end for end in row["interval"]], [place, place], color="black", linewidth=1.2)
            kind = f", {row['prompt_type']}" if row["prompt_type"] else ""
            labels.append(f"{model_title(row['model'])}{kind}")
        ax.axvline(0, color="black", linewidth=1)
        ax.set_yticks(range(len(own)), labels, fontsize=8)
        ax.set_title(f"{title} ({metric})", fontsize=10)
        ax.grid(visible=False, axis="y")
    for ax in axes[len(tasks) :]:
        ax.set_visible(False)
    drawing.supxlabel(f"gain over {model_title(reference)} (right of 0 is better; line: 95 % interval)", fontsize=9)
    return drawing
