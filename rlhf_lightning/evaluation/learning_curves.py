"""All stages' learning curves in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from rlhf_lightning.evaluation.curves import Curve, running_mean
from rlhf_lightning.evaluation.plots import figure, style
from rlhf_lightning.evaluation.wording import STAGE_TITLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


class _Line(NamedTuple):
    curve: Curve
    label: str
    color: str
    validation: bool


class _Panel(NamedTuple):
    title: str
    across: str
    up: str
    lines: list[_Line]


def learning_curves(curves: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """One panel for each supervised stage, and panels in which the PPO runs stand against each other; ``None`` if there
    is nothing to draw. Thin lines are what was logged, thick ones their running mean.

    Args:
        curves: by stage and then by metric, see :func:`~rlhf_lightning.evaluation.curves.read_curves`.
    """
    panels = [panel for panel in (*_supervised(curves), *_rollouts(curves)) if panel.lines]
    if not panels:
        return None
    rows = -(-len(panels) // _COLUMNS)
    drawing, axes = figure(3.5 * min(len(panels), _COLUMNS), 2.7 * rows, rows, min(len(panels), _COLUMNS))
    for ax, panel in zip(axes, panels, strict=False):
        for line in panel.lines:
            steps, values = line.curve
            if line.validation or len(values) < 20:
                ax.plot(steps, values, color=line.color, marker="o", markersize=3, linewidth=1.4, label=line.label)
            else:
                ax.plot(steps, values, color=line.color, linewidth=0.6, alpha=0.35)
                smooth = running_mean(values, max(3, len(values) // 15))
                ax.plot(steps, smooth, color=line.color, linewidth=1.6, label=line.label)
        ax.set_title(panel.title, fontsize=10, loc="left")
        ax.set_xlabel(panel.across)
        ax.set_ylabel(panel.up)
        ax.legend(frameon=False, fontsize=8)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return drawing


def _supervised(curves: Mapping[str, Mapping[str, Curve]]) -> list[_Panel]:
    panels = []
    for stage, metric, up in (
        ("pretrain", "loss", "loss (nats per token)"),
        ("sft", "loss", "loss (nats per token)"),
        ("reward", "accuracy", "share of pairs in order"),
    ):
        found = curves.get(stage, {})
        lines = [
            _Line(found[f"{split}/{metric}"], label, color, split == "val")
            for split, label, color in (("train", "training", "#56B4E9"), ("val", "held out", "#D55E00"))
            if f"{split}/{metric}" in found
        ]
        panels.append(_Panel(STAGE_TITLES[stage], "optimizer step", up, lines))
    return panels


def _rollouts(curves: Mapping[str, Mapping[str, Curve]]) -> list[_Panel]:
    runs = [stage for stage in curves if stage.startswith("ppo")]
    panels = []
    for metric, title, up in (
        ("rollout/score", "PPO: proxy reward of the rollouts", "reward model's score"),
        ("rollout/kl", "PPO: KL from the reference", "nats per response"),
        ("rollout/entropy", "PPO: entropy", "nats per token"),
    ):
        lines = [
            _Line(curves[run][metric], STAGE_TITLES.get(run, run), style(run)[0], False)
            for run in runs
            if metric in curves[run]
        ]
        panels.append(_Panel(title, "iteration", up, lines))
    return panels
