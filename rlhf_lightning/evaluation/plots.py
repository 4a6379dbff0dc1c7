"""The report's plots. Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and every model
has a marker of its own besides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.evaluation.curves import Curve, running_mean
from rlhf_lightning.evaluation.wording import model_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {
    "base": ("#7F7F7F", "o"),
    "base_prompted": ("#56B4E9", "s"),
    "sft": ("#E69F00", "D"),
    "ppo": ("#D55E00", "^"),
    "ppo_ptx": ("#0072B2", "v"),
}
# Behind a number that a line would strike through.
_CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
_MORE = [("#009E73", "P"), ("#CC79A7", "X"), ("#000000", "*")]


def style(name: str) -> tuple[str, str]:
    """Colour and marker of a model."""
    return _STYLES.get(name) or _MORE[sum(map(ord, name)) % len(_MORE)]


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row. It is drawn without pyplot, so that no global state and no display is used."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes: list[Axes] = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)
    return drawing, axes


def win_rates(report: Mapping[str, Any]) -> Figure:
    """Win rates against the baseline with their 95 % intervals."""
    baseline = report["baseline"]
    names = [name for name in report["models"] if name != baseline]
    drawing, (ax,) = figure(6.4, 1.3 + 0.45 * len(names))
    for place, name in enumerate(reversed(names)):
        values = report["models"][name]
        mean, (low, high) = values[f"win_rate_vs_{baseline}"], values["win_rate_interval"]
        color, marker = style(name)
        ax.plot([100 * low, 100 * high], [place, place], color=color, linewidth=2.5, solid_capstyle="butt")
        ax.plot(100 * mean, place, marker, color=color, markersize=8)
        ax.annotate(f"{100 * mean:.0f} %", (100 * mean, place), (0, 8), textcoords="offset points", ha="center")
    ax.axvline(50, color="black", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(names)), [model_title(name) for name in reversed(names)])
    ax.set_ylim(-0.6, len(names) - 0.2)
    ax.set_xlim(0, 100)
    ax.set_xlabel(f"win rate against {model_title(baseline)} (% of prompts, ties half; bar: 95 % interval)")
    ax.grid(visible=False, axis="y")
    return drawing


def ratings(report: Mapping[str, Any]) -> Figure | None:
    """Bradley-Terry ratings before every judge with their 95 % intervals; ``None`` where there are none."""
    judges = (report.get("preferences") or {}).get("judges") or {}
    if not judges:
        return None
    names = list(report["models"])
    drawing, axes = figure(1.6 + 3.2 * len(judges), 1.3 + 0.4 * len(names), 1, len(judges))
    for ax, (judge, said) in zip(axes, judges.items(), strict=True):
        for place, name in enumerate(reversed(names)):
            values = said["ratings"].get(name)
            if values is not None:
                color, marker = style(name)
                ax.plot([values["low"], values["high"]], [place, place], color=color, linewidth=2.5)
                ax.plot(values["rating"], place, marker, color=color, markersize=8)
        ax.axvline(0, color="black", linewidth=1, linestyle="--")
        ax.set_title(judge.replace("_", " "), fontsize=10)
        ax.set_yticks(range(len(names)), [model_title(name) for name in reversed(names)] if ax is axes[0] else [])
        ax.set_ylim(-0.6, len(names) - 0.4)
        ax.set_xlabel(f"log-odds of beating {model_title(report['baseline'])}")
        ax.grid(visible=False, axis="y")
    return drawing


def alignment_tax(report: Mapping[str, Any]) -> Figure | None:
    """Loss on held-out pretraining text by model; ``None`` where it was not measured."""
    losses = {name: values.get("pretrain_loss") for name, values in report["models"].items()}
    # A few-shot prefix changes no weight, so the prompted base would repeat the base.
    losses = {name: loss for name, loss in losses.items() if loss is not None and name != "base_prompted"}
    if not losses:
        return None
    drawing, (ax,) = figure(6.4, 1.3 + 0.45 * len(losses))
    for place, (name, loss) in enumerate(reversed(losses.items())):
        color, marker = style(name)
        ax.plot(loss, place, marker, color=color, markersize=9)
        ax.annotate(f"{loss:.3f}", (loss, place), (0, 9), textcoords="offset points", ha="center", bbox=_CLEAR)
    start = losses.get(report["baseline"])
    if start is not None:
        ax.axvline(start, color=style(report["baseline"])[0], linewidth=1, linestyle="--")
    low, high = min(losses.values()), max(losses.values())
    room = max(high - low, 0.02)
    ax.set_xlim(low - 0.12 * room, high + 0.12 * room)
    ax.set_ylim(-0.6, len(losses) - 0.2)
    ax.set_yticks(range(len(losses)), [model_title(name) for name in reversed(losses)])
    ax.set_xlabel("loss on held-out pretraining text (nats per token; lower is better, axis not from 0)")
    ax.grid(visible=False, axis="y")
    return drawing


def reward_against_kl(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Proxy and gold reward against the KL from the baseline, with the path of the training where there are curves.

    The base models are left out: they are not what training from the baseline arrived at.
    """
    points = {
        name: values
        for name, values in report["models"].items()
        if not name.startswith("base") and values.get("kl") is not None
    }
    panels = [
        (key, label)
        for key, label in (("proxy_reward", "proxy reward (reward model)"), ("gold_reward", "gold reward (judge)"))
        if any(values.get(key) is not None for values in points.values())
    ]
    if not panels:
        return None
    drawing, axes = figure(4.2 * len(panels), 3.4, 1, len(panels))
    for ax, (key, label) in zip(axes, panels, strict=True):
        if key == "proxy_reward":
            for name, found in curves.items():
                if "rollout/score" in found and "rollout/kl" in found:
                    score = dict(zip(*found["rollout/score"], strict=True))
                    path = [(kl, score[step]) for step, kl in zip(*found["rollout/kl"], strict=True) if step in score]
                    smooth = [running_mean(list(values), len(path) // 10) for values in zip(*path, strict=True)]
                    ax.plot(*smooth, color=style(name)[0], linewidth=1.2, alpha=0.7)
        for name, values in points.items():
            if values.get(key) is not None:
                color, marker = style(name)
                ax.plot(values["kl"], values[key], marker, color=color, markersize=9, label=model_title(name))
        ax.set_xlabel(f"KL from {model_title(report['baseline'])} (nats per response)")
        ax.set_ylabel(label)
    axes[-1].legend(frameon=False, loc="best")
    return drawing


def calibration(report: Mapping[str, Any]) -> Figure | None:
    """Observed against predicted preference of the reward model; ``None`` without comparisons."""
    table = (report.get("reward_model") or {}).get("calibration")
    if not table:
        return None
    drawing, (ax,) = figure(4.6, 3.9)
    ax.plot([50, 100], [50, 100], color="black", linewidth=1, linestyle="--", label="perfectly calibrated")
    predicted = [100 * row["predicted"] for row in table]
    observed = [100 * row["observed"] for row in table]
    intervals = [wilson_interval(row["observed"], row["pairs"]) for row in table]
    errors = [
        [max(value - 100 * low, 0) for value, (low, _) in zip(observed, intervals, strict=True)],
        [max(100 * high - value, 0) for value, (_, high) in zip(observed, intervals, strict=True)],
    ]
    ax.errorbar(predicted, observed, errors, fmt="o-", color="#0072B2", linewidth=1, capsize=2, label="held-out pairs")
    ax.set_xlabel("predicted: σ(score difference), %")
    ax.set_ylabel("observed: higher score preferred, %")
    ax.set_xlim(48, 102)
    ax.legend(frameon=False, loc="lower right")
    return drawing


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share of ``count`` independent trials (Wilson 1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def save(drawing: Figure, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    drawing.savefig(partial, format="png")
    partial.replace(file)
