"""Learning curves as Lightning's CSVLogger writes them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

Curve = tuple[list[float], list[float]]
"""Steps and values."""


def read_curves(file: str | Path) -> dict[str, Curve]:
    """The curves in a ``metrics.csv``: for each metric the steps at which it was logged, and its values there.

    A row holds the metrics of one logging call and is blank elsewhere. Values that are no finite numbers are left out.
    """
    curves: dict[str, Curve] = {}
    with Path(file).open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            step = _number(row.pop("step", None))
            for name, text in row.items():
                value = _number(text)
                if value is not None and step is not None and name != "epoch":
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(value)
    return curves


def running_mean(values: list[float], width: int) -> list[float]:
    """Mean over a centred window of ``width`` values, narrower at the ends."""
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
