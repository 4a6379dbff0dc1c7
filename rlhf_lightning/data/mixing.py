"""Several tables as one, each with its weight in training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from rlhf_lightning.errors import UserError


class Table(Protocol):
    """A table of rows: a ``datasets.Dataset``, or anything with a length and rows by numbers."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]: ...


class Mixture:
    """Tables one after the other; ``draws`` says how many rows of each a training pass takes.

    A pass has as many rows as the tables together, or ``rows``. A table with weight w gives the part w / Σw of them: a
    small table with a large weight comes several times a pass, a large one with a small weight is spread over several
    passes.

    Args:
        tables: at least one, none of them empty.
        weights: one positive number per table.
        names: of the tables, for errors.
        rows: of a pass; ``None``: of the tables together.

    Errors:
        UserError: a weight so small that a pass takes no row of its table.
    """

    def __init__(
        self, tables: Sequence[Table], *, weights: Sequence[float], names: Sequence[str], rows: int | None = None
    ) -> None:
        self.tables = list(tables)
        self.weights = list(weights)
        self.names = list(names)
        self._ends = list(accumulate(len(table) for table in tables))
        self.rows = self._ends[-1] if rows is None else rows
        for name, weight, (_, drawn) in zip(names, weights, self.draws(), strict=True):
            if not drawn:
                raise UserError(
                    f"{name}: its weight {weight:g} of {sum(weights):g} gives it none of the {len(self)} rows of a "
                    "pass: raise it or leave the source out"
                )

    def __len__(self) -> int:
        """Rows of a pass."""
        return self.rows

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{}] * len(indices)
        owners = np.searchsorted(self._ends, indices, side="right")
        for owner in np.unique(owners):
            first = self._ends[owner - 1] if owner else 0
            places = np.flatnonzero(owners == owner)
            found = self.tables[owner].__getitems__([indices[place] - first for place in places])
            for place, row in zip(places, found, strict=True):
                rows[place] = row
        return rows

    def draws(self) -> list[tuple[int, int]]:
        """(rows, rows that a pass takes) of every table; the latter sum up to all rows."""
        shares = np.array(self.weights, dtype=float) / sum(self.weights) * len(self)
        drawn = np.floor(shares).astype(int)
        rest = np.argsort(drawn - shares, kind="stable")[: len(self) - int(drawn.sum())]
        drawn[rest] += 1  # the largest fractions get what rounding down has left
        return [(len(table), int(count)) for table, count in zip(self.tables, drawn, strict=True)]


def with_share(rows: Table, added: Table, *, share: float, names: tuple[str, str]) -> Mixture:
    """``rows``, each once in a pass, and beside them so many rows of ``added`` that these are ``share`` of the pass.

    Args:
        rows, added: tables, or mixtures, whose weights go on to hold among their own.
        share: between 0 and 1, both excluded.
        names: of the two, for errors.

    Errors:
        UserError: a share so small that a pass takes no row of ``added``.
    """
    parts = []
    for table, part, name in ((rows, 1 - share, names[0]), (added, share, names[1])):
        if isinstance(table, Mixture):
            weights = [part * weight / sum(table.weights) for weight in table.weights]
            parts += list(zip(table.tables, weights, table.names, strict=True))
        else:
            parts.append((table, part, name))
    return Mixture(
        [table for table, _, _ in parts],
        weights=[weight for _, weight, _ in parts],
        names=[name for _, _, name in parts],
        rows=len(rows) + round(len(rows) * share / (1 - share)),
    )


def weights_of(weights: Sequence[float | None]) -> list[float] | None:
    """The weights of sources, 1 where one has none; None where none has any."""
    if all(weight is None for weight in weights):
        return None
    return [1.0 if weight is None else float(weight) for weight in weights]
