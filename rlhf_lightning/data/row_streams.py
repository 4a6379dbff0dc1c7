"""Rows of a source one by one, each with its place, from any position on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rlhf_lightning.data.bad_lines import rows_of
from rlhf_lightning.data.records import START, BadRow
from rlhf_lightning.data.unreadable import UNREADABLE
from rlhf_lightning.errors import UserError, one_line


class RowStream(Protocol):
    """(place, row) from the position on, or why a row is none."""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]: ...

    def state_dict(self) -> dict[str, Any]:
        """Behind the last row."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class FileRows:
    """The rows of a .jsonl, .json, .csv or .tsv file, read line by line, so that a bad one spoils no other.

    The position is that in the file, so that going on costs nothing (of a .gz: unzipping what was read).

    Args:
        path: the file.
        builder: see ``rows_of``.
    """

    def __init__(self, path: Path, builder: str) -> None:
        self.path = path
        self.builder = builder
        self._end = START

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        try:
            for place, row, end in rows_of(self.path, self.builder, start=self._end):
                self._end = end
                yield place, row
        except UNREADABLE as error:
            raise UserError(f"{self.path} cannot be read: {one_line(error)}: mend the file") from error

    def state_dict(self) -> dict[str, Any]:
        return {"end": list(self._end)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._end = tuple(state["end"])


class NumberedRows:
    """The rows of a ``datasets.IterableDataset`` with their numbers.

    Args:
        open_rows: gives a fresh one.
        name: of the source, for errors.
    """

    def __init__(self, open_rows: Callable[[], Any], name: str) -> None:
        self.rows = open_rows()
        self.name = name
        self._number = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        import pyarrow as pa

        try:
            for row in self.rows:
                self._number += 1
                yield f"row {self._number}", row
        except (UnicodeDecodeError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{self.name}: what follows row {self._number} cannot be read ({one_line(error)}): mend it, or give it "
                "as a .jsonl file with data.on_bad_row=skip"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        return {"number": self._number, "rows": self.rows.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._number = state["number"]
        self.rows.load_state_dict(state["rows"])
