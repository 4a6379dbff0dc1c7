"""Several annotators of one comparison, who may stand in rows of their own."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.columns import Layout

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("preference", "choice")
"""What an annotator says."""


class MergedVotes:
    """Rows that differ in what the annotator says alone become one row with all that was said.

    The file is read through when the first row is asked for, so that it costs nothing where the result is cached.

    Args:
        rows: the file.
        layout: how it is read.
    """

    def __init__(self, rows: Dataset, layout: Layout) -> None:
        self.rows = rows.select_columns(layout.columns)
        self.layout = layout
        self.field = next((field for field in FIELDS if field in layout.selectors), None)
        self._votes: dict[bytes, list[Any]] | None = None
        self._first: dict[bytes, int] = {}

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any] | None:
        """The row with the votes of all rows like it if it is the first of them, else None."""
        if self.field is None or row[self.field] is None:  # a row without a vote is its reader's business
            return row
        if self._votes is None:
            self._votes = self._read(self.field)
        key = self._key(row)
        return {**row, self.field: self._votes[key]} if self._first[key] == index else None

    def _read(self, field: str) -> dict[bytes, list[Any]]:
        votes: dict[bytes, list[Any]] = {}
        for index, entry in enumerate(self.rows):
            row = self.layout.read(entry)
            said = row[field]
            if said is None:
                continue
            key = self._key(row)
            self._first.setdefault(key, index)
            votes.setdefault(key, []).extend(said if isinstance(said, list) else [said])
        return votes

    def _key(self, row: dict[str, Any]) -> bytes:
        rest = {name: value for name, value in row.items() if name != self.field}
        return hashlib.blake2b(json.dumps(rest, sort_keys=True, default=str).encode(), digest_size=16).digest()
