"""The plots of a sweep: what each parameter does, parallel coordinates, and one objective against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lightning.evaluation.plots import figure
from rlhf_lightning.sweeps.ranking import best_trials
from rlhf_lightning.sweeps.trial import COMPLETE, Trial, varied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")  # Okabe and Ito
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
_TICKS = 6  # values that were tried, each of which is named on its axis
_SPREAD = 10.0  # a parameter whose largest value is so many times its smallest has a logarithmic axis


def effects(trials: Sequence[Trial], metrics: Sequence[str]) -> Figure | None:
    """Each metric against each number that was varied; a line joins trials that differ in that number alone, a cross
    stands for a trial that has no such neighbour. ``None`` without such a number or without a metric."""
    done = _complete(trials)
    numbers = [key for key in varied(done) if all(_number(t.parameters().get(key)) is not None for t in done)]
    shown = [name for name in metrics if any(name in trial.metrics for trial in done)]
    if not numbers or not shown:
        return None
    drawing, axes = figure(1.0 + 3.2 * len(numbers), 0.6 + 2.3 * len(shown), len(shown), len(numbers))
    for place, ax in enumerate(axes):
        metric, key = shown[place // len(numbers)], numbers[place % len(numbers)]
        lines = _lines([trial for trial in done if metric in trial.metrics], key)
        for index, (others, line) in enumerate(lines.items()):
            points = sorted((_number(trial.parameters()[key]) or 0.0, trial.metrics[metric]) for trial in line)
            alone = len(points) == 1
            color = "grey" if alone or len(lines) > len(_COLORS) else _COLORS[index]
            marker = "x" if alone else _MARKERS[index % len(_MARKERS)]
            ax.plot(*zip(*points, strict=True), linewidth=1.2, label=others, color=color, marker=marker)
        tried = sorted({_number(trial.parameters()[key]) or 0.0 for trial in done})
        _scale(ax, "x", tried)
        if len(tried) <= _TICKS:
            ax.set_xticks(tried, [f"{value:g}" for value in tried])
            ax.set_xticks([], minor=True)
        ax.set_xlabel(short(key, numbers))
        ax.set_ylabel(metric)
        if 1 < len(lines) <= len(_COLORS) and place < len(numbers):
            ax.legend(frameon=False, fontsize=7)
    return drawing


def parallel_coordinates(
    trials: Sequence[Trial], objectives: Mapping[str, str], metrics: Sequence[str]
) -> Figure | None:
    """A line for every complete trial through its varied parameters and its metrics; the best are drawn bold."""
    done = _complete(trials)
    keys, shown = varied(done), [name for name in metrics if done and all(name in t.metrics for t in done)]
    if len(done) < 2 or len(keys) + len(shown) < 2:
        return None
    from matplotlib import colormaps

    columns = [([trial.parameters().get(key, "") for trial in done], short(key, keys)) for key in keys]
    columns += [([f"{trial.metrics[name]:.6g}" for trial in done], name) for name in shown]
    places = [_places(values) for values, _ in columns]
    drawing, (ax,) = figure(1.5 + 1.7 * len(columns), 4.2)
    first = next(iter(objectives), shown[0] if shown else None)
    ranked = sorted(done, key=lambda trial: trial.metrics.get(first or "", 0.0))
    best = {trial.number for trial in best_trials(done, objectives)}
    for index, trial in enumerate(done):
        color = colormaps["viridis"](ranked.index(trial) / max(len(done) - 1, 1))
        bold = trial.number in best
        line = [column[index] for column in places]
        ax.plot(range(len(columns)), line, color=color, linewidth=3 if bold else 1.2, zorder=3 if bold else 2)
        end = (len(columns) - 1, line[-1])
        ax.annotate(f"trial {trial.number}", end, (40, -3), textcoords="offset points", fontsize=7, color=color)
    for place, (values, _) in enumerate(columns):
        ax.axvline(place, color="black", linewidth=0.8)
        marks = dict(zip(places[place], values, strict=True))
        every = place < len(keys) and len(marks) <= 6  # metrics have a value for each trial, too many to read
        levels = sorted(marks) if every else [min(marks), max(marks)]
        for level in levels:
            ax.annotate(_brief(marks[level]), (place, level), (3, 3), textcoords="offset points", fontsize=7)
    ax.set_xticks(range(len(columns)), [name for _, name in columns], rotation=12, ha="right", fontsize=8)
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_title(f"colour: {first}, dark is low; bold: best" if first else "", fontsize=8)
    return drawing


def pareto(trials: Sequence[Trial], metrics: Mapping[str, str]) -> Figure | None:
    """The first metric against each of the others, with the front that no trial beats in both of the two."""
    done = _complete(trials)
    first, *others = metrics or [""]
    panels = [
        (other, [trial for trial in done if first in trial.metrics and other in trial.metrics]) for other in others
    ]
    panels = [(other, known) for other, known in panels if known]
    if not panels:
        return None
    drawing, axes = figure(4.4 * len(panels), 3.6, 1, len(panels))
    for ax, (other, known) in zip(axes, panels, strict=True):
        front = best_trials(known, {first: metrics[first], other: metrics[other]})
        if len(front) > 1:
            line = sorted((trial.metrics[other], trial.metrics[first]) for trial in front)
            ax.plot(*zip(*line, strict=True), color=_COLORS[1], linewidth=1.2)
        for trial in known:
            inside = trial in front
            x, y = trial.metrics[other], trial.metrics[first]
            ax.plot(x, y, "D" if inside else "o", color=_COLORS[1] if inside else _COLORS[0], markersize=6)
            ax.annotate(str(trial.number), (x, y), (4, 4), textcoords="offset points", fontsize=7)
        ax.set_xlabel(f"{other} ({_wish(metrics[other])})")
        ax.set_ylabel(f"{first} ({_wish(metrics[first])})")
    axes[0].set_title("number: trial; diamonds: beaten by no other in both", fontsize=8)
    return drawing


def short(key: str, keys: Sequence[str]) -> str:
    """The last word of a dotted key, or the whole key where two of the keys end in the same word."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _complete(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state == COMPLETE]


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _lines(trials: Sequence[Trial], key: str) -> dict[str, list[Trial]]:
    """Trials by the varied parameters other than ``key``."""
    keys = varied(list(trials))
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        given = trial.parameters()
        name = ", ".join(f"{short(other, keys)}={_brief(given.get(other, ''))}" for other in keys if other != key)
        found.setdefault(name, []).append(trial)
    return found


def _scale(ax: object, axis: str, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= _SPREAD:
        getattr(ax, f"set_{axis}scale")("log")
    elif min(values) == 0 and max(values) / min(v for v in [*values, max(values)] if v > 0) >= _SPREAD:
        getattr(ax, f"set_{axis}scale")("symlog", linthresh=min(v for v in values if v > 0))


def _places(values: Sequence[str]) -> list[float]:
    """Heights between 0 and 1 for the values of an axis; words are evenly spaced, by their order."""
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        words = sorted(set(values))
        return [words.index(value) / max(len(words) - 1, 1) for value in values]
    known = [number or 0.0 for number in numbers]
    low, high = min(known), max(known)
    if low > 0 and high / low >= _SPREAD:
        from math import log

        known = [log(number) for number in known]
        low, high = min(known), max(known)
    return [(number - low) / (high - low) if high > low else 0.5 for number in known]


def _brief(text: str) -> str:
    number = _number(text)
    return (text if len(text) <= 14 else f"{text[:13]}…") if number is None else f"{number:.4g}"


def _wish(direction: str) -> str:
    return "higher is better" if direction == "maximize" else "lower is better"
