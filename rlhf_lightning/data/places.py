"""Which row of which file a row of a table is, found when there is something to tell about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.bad_lines import rows_of
from rlhf_lightning.data.records import BadRow
from rlhf_lightning.data.unreadable import UNREADABLE
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from rlhf_lightning.data.sources import Source

LINED = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
"""Endings of files whose rows have lines (the entries of a .json list have numbers)."""


def place_of(source: Source, row: int) -> str:
    """The file and the line at which a row begins, or the number of the row where there are no lines.

    The file is read again up to that row, so that no table has to keep lines.

    Args:
        source: the source.
        row: its number in ``source.rows``, from 0.
    """
    if source.adapter is not None:
        return f"{source.path}, row {row + 1} of what adapter {source.adapter} makes of it"
    return f"{source.path}, {_line(source, row) or f'row {row + 1}'}"


class Provenance:
    """What the rows of a table that is joined from several sources were, and what each source gave."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.counts: list[dict[str, int]] = []
        """What each source gave and what was left out of it."""
        self.totals: Mapping[str, int] = {}
        """The same of all sources, behind everything that was done to their rows."""
        self.held_out: Provenance | None = None
        """Of the rows that were held out for validation."""
        self._rows: list[NDArray[np.int64]] = []
        self._chosen: NDArray[np.int64] | None = None

    def add(self, source: Source, counts: Mapping[str, int], rows: NDArray[np.int64] | None = None) -> None:
        """Append a source, of which these rows are in use."""
        self.sources.append(source)
        self.counts.append({name: count for name, count in counts.items() if count})
        self._rows.append(np.zeros(0, dtype=np.int64) if rows is None else rows)

    def split(self, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> None:
        """Only these of the rows so far stay; the others are held out."""
        self.held_out = Provenance()
        self.held_out.sources, self.held_out._rows = self.sources, self._rows
        self.held_out._chosen, self._chosen = held_out, train

    def place(self, row: int) -> str:
        """The place of a row of the joined table, from 0."""
        row = row if self._chosen is None else int(self._chosen[row])
        for source, rows in zip(self.sources, self._rows, strict=True):
            if row < len(rows):
                return place_of(source, int(rows[row]))
            row -= len(rows)
        raise IndexError(row)


def _line(source: Source, row: int) -> str | None:
    """The place of a row inside its file, if it can be told for certain."""
    path = Path(source.path)
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    builder = LINED.get(endings[-1]) if endings else None
    if builder is None or not path.is_file():
        return None
    good = 0
    try:
        for read in rows_of(path, builder):
            if isinstance(read.row, BadRow):
                if not source.skipped:  # the table was read by other rules, such as objects over several lines
                    return None
            elif good == row:
                return read.place if _alike(read.row, source.rows[row]) else None
            else:
                good += 1
    except (UserError, *UNREADABLE):  # what is to be told is the fault of the row
        return None
    return None


def _alike(row: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    texts = [name for name, value in kept.items() if isinstance(value, str) and isinstance(row.get(name), str)]
    return all(row[name] == kept[name] for name in texts)
