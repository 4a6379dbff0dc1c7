"""The report of a sweep: ``sweep_report.md``, ``results.csv`` and ``plots/`` in its folder."""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_lightning.evaluation import plots as drawn
from rlhf_lightning.sweeps import plots
from rlhf_lightning.sweeps.ranking import best_trials
from rlhf_lightning.sweeps.trial import COMPLETE, FAILED, PRUNED, Trial, read_trials, varied

REPORT, RESULTS = "sweep_report.md", "results.csv"
_MOST = 8  # metrics of a table, where the sweep names none

_CAPTIONS = {
    "effects": "Each metric against each number that was varied; a line joins trials that differ in nothing else.",
    "pareto": "Diamonds are trials that no other beats in both metrics.",
    "parallel_coordinates": "A line is a trial.",
}


def write_sweep_report(
    folder: str | Path, *, metrics: Mapping[str, str], objectives: Sequence[str] = (), script: str = "rlhf-train"
) -> list[Trial]:
    """Write the report of the trials whose files lie in ``folder``; each file is replaced whole.

    Args:
        folder: of the sweep; each trial has a folder in it.
        metrics: the metrics to show, each with ``maximize`` or ``minimize``.
        objectives: those of them that the best trial is chosen by; several make a Pareto front.
        script: that ran the trials, for the line to copy.

    Returns:
        The trials.
    """
    folder = Path(folder)
    trials: list[Trial] = read_trials(folder)
    names = list(metrics) or list(dict.fromkeys(name for trial in trials for name in trial.metrics))[:_MOST]
    wanted = {name: metrics.get(name, "minimize") for name in objectives}
    _replace(folder / RESULTS, results_csv(trials))
    drawings = {
        "effects": plots.effects(trials, names),
        "pareto": plots.pareto(trials, metrics),
        "parallel_coordinates": plots.parallel_coordinates(trials, wanted, names),
    }
    (folder / "plots").mkdir(exist_ok=True)
    for name, drawing in drawings.items():
        file = folder / "plots" / f"{name}.png"
        if drawing is None:
            file.unlink(missing_ok=True)
        else:
            drawn.save(drawing, file)
    images = [name for name, drawing in drawings.items() if drawing is not None]
    _replace(folder / REPORT, _markdown(trials, names, wanted, script, images))
    return trials


def results_csv(trials: Sequence[Trial]) -> str:
    """A row for each trial: number, state, seconds, folder, what was varied, metrics, error, all overrides."""
    keys = varied(list(trials))
    names = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "seconds", "folder", *keys, *names, "error", "overrides"])
    for trial in trials:
        given = trial.parameters()
        row: list[object] = [trial.number, trial.state, round(trial.seconds, 2), trial.folder]
        row += [given.get(key, "") for key in keys]
        row += [trial.metrics.get(name, "") for name in names]
        writer.writerow([*row, trial.error, shlex.join(trial.overrides)])
    return text.getvalue()


def _markdown(
    trials: Sequence[Trial], names: Sequence[str], objectives: Mapping[str, str], script: str, images: Sequence[str]
) -> str:
    counts = Counter(trial.state for trial in trials)
    parts = ["# Sweep", f"{len(trials)} trials: " + ", ".join(f"{n} {state}" for state, n in counts.items()) + "."]
    parts += _best(trials, objectives, script)
    keys = varied(list(trials))
    head = ["trial", *(plots.short(key, keys) for key in keys), *names, "state", "seconds", "folder"]
    rows = [head, ["---"] * len(head)]
    for trial in trials:
        given = trial.parameters()
        values = [f"{trial.metrics[name]:.4g}" if name in trial.metrics else "" for name in names]
        values += [trial.state, f"{trial.seconds:.0f}", trial.folder]
        rows.append([str(trial.number), *(given.get(key, "") for key in keys), *values])
    parts += ["## Trials", "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)]
    lost = [trial for trial in trials if trial.state in (FAILED, PRUNED) and trial.error]
    if lost:
        parts += ["## Failed or ended early", "\n".join(f"- trial {t.number}: {t.error} ({t.folder})" for t in lost)]
    for name in images:
        parts += [f"## {name.replace('_', ' ').capitalize()}", _CAPTIONS[name], f"![{name}](plots/{name}.png)"]
    return "\n\n".join(parts) + "\n"


def _best(trials: Sequence[Trial], objectives: Mapping[str, str], script: str) -> list[str]:
    wish = " and ".join(f"{direction} `{name}`" for name, direction in objectives.items())
    best = best_trials(trials, objectives)
    if not objectives:
        return ["No metric was named to choose by (`optimized_metric`)."]
    if not best:
        return [f"No trial is complete; asked was to {wish}."]
    told = []
    for trial in best:
        values = ", ".join(f"{name} {trial.metrics[name]:.4g}" for name in objectives)
        line = shlex.join([script, *trial.overrides, "run_dir=runs/best"])
        told.append(f"Trial {trial.number} ({values}):\n\n```\n{line}\n```")
    several = "The trials that no other beats" if len(objectives) > 1 else "The best trial"
    return ["## Best", f"{several} (asked: {wish}), to copy:", *told]


def summary(trials: Sequence[Trial], objectives: Mapping[str, str]) -> str:
    """One line for the end of a sweep."""
    done = sum(trial.state == COMPLETE for trial in trials)
    best = ", ".join(str(trial.number) for trial in best_trials(trials, objectives))
    return f"{done} of {len(trials)} trials complete" + (f"; best: {best}" if best else "")


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
