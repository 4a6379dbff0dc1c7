"""What an evaluation left in its files, response by response, for questions that its report does not answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lightning.errors import UserError


class Evidence:
    """The per-sample files of one evaluation.

    Args:
        report: the result of :func:`~rlhf_lightning.evaluation.evaluate_models`, or a ``report.json``.

    Raises:
        UserError: files that are no longer there.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.files = {name: Path(path) for name, path in report["samples"].items()}
        for path in self.files.values():
            if not path.is_file():
                raise UserError(f"{path}, which the report names, is gone: evaluate the models again")
        self.folder = next(iter(self.files.values())).parent

    def difference(self, metric: str, first: str, second: str) -> np.ndarray | None:
        """The metric of the first model less that of the second, per prompt: [p], NaN where one is undecided; ``None``
        if a model or the metric is missing."""
        values = [self._metric(name, metric) for name in (first, second)]
        return None if values[0] is None or values[1] is None else values[0] - values[1]

    def preferences(self, judge: str, first: str, second: str) -> np.ndarray | None:
        """Per prompt 1 where the judge preferred the first model, ½ for a tie, else 0: [p]; ``None`` if not asked."""
        straight, turned = ((judge, *pair) in self._verdicts for pair in ((first, second), (second, first)))
        if straight:
            return np.array(self._verdicts[judge, first, second])
        return 1 - np.array(self._verdicts[judge, second, first]) if turned else None

    def text_losses(self, name: str) -> list[tuple[float, int]] | None:
        """Summed loss and labels of each block of held-out text; ``None`` if there was none."""
        return self._losses.get(name)

    def _metric(self, name: str, metric: str) -> np.ndarray | None:
        if name not in self.files:
            return None
        values = [row.get(metric) for row in _lines(self.files[name])]
        known = any(value is not None for value in values)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64) if known else None

    @cached_property
    def _verdicts(self) -> dict[tuple[str, str, str], list[float]]:
        found: dict[tuple[str, str, str], list[float]] = {}
        file = self.folder / "preferences.jsonl"
        for row in _lines(file) if file.is_file() else ():
            found.setdefault((row["judge"], row["first"], row["second"]), []).append(row["preference"])
        return found

    @cached_property
    def _losses(self) -> dict[str, list[tuple[float, int]] | None]:
        file = self.folder / "text_losses.jsonl"
        rows = _lines(file) if file.is_file() else []
        return {row["model"]: None if row["blocks"] is None else [(a, b) for a, b in row["blocks"]] for row in rows}


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
