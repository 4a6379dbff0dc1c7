"""Which trials are best: by one metric, or those that no other trial beats in every one of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rlhf_lightning.sweeps.trial import COMPLETE, Trial

DIRECTIONS = ("maximize", "minimize")


def best_trials(trials: Sequence[Trial], objectives: Mapping[str, str]) -> list[Trial]:
    """The Pareto front of the complete trials, ordered by the first objective, best first.

    A trial is in the front if no other is at least as good in every objective and better in one. With one objective
    these are the best trial and those that equal it. Trials that lack an objective are left out.

    Args:
        trials: any.
        objectives: ``maximize`` or ``minimize`` by metric.
    """
    if not objectives:
        return []
    signs = {name: -1.0 if direction == "maximize" else 1.0 for name, direction in objectives.items()}
    points = {
        trial.number: [sign * trial.metrics[name] for name, sign in signs.items()]
        for trial in trials
        if trial.state == COMPLETE and all(name in trial.metrics for name in signs)
    }
    front = [trial for trial in trials if trial.number in points and not _beaten(points[trial.number], points.values())]
    return sorted(front, key=lambda trial: points[trial.number])


def _beaten(point: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    return any(
        all(x <= y for x, y in zip(other, point, strict=True)) and list(other) != list(point) for other in others
    )
