"""The records of CSV and TSV files, each with the line at which it starts."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rlhf_lightning.data.records import NOT_UTF8, START, BadRow, Position, Read, open_bytes
from rlhf_lightning.errors import UserError

NOT_CSV = "not valid CSV"
WIDTH = "wrong number of fields"
LONGEST_FIELD = 2**31 - 1
"""Letters; the limit of Python's reader, 131,072, is less than a long document."""


class _Lines:
    """The decoded lines of a file for ``csv.reader``, which takes as many as a record has; they can be put back."""

    def __init__(self, file: IO[bytes], position: Position) -> None:
        self.file = file
        self.offset, self.number = position
        self.taken: list[bytes] = []
        self.back: deque[bytes] = deque()
        file.seek(self.offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.back.popleft() if self.back else self.file.readline()
        if not line:
            raise StopIteration
        self.taken.append(line)
        self.offset += len(line)
        self.number += 1
        # Bytes that are no UTF-8 become lone surrogates, which mark their record.
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")

    def keep_first(self) -> str:
        """Put all lines of the record but its first back; returns that one."""
        for line in reversed(self.taken[1:]):
            self.back.appendleft(line)
            self.offset -= len(line)
            self.number -= 1
        return self.taken[0].decode("utf-8", "surrogateescape").rstrip("\r\n")


def csv_rows(path: Path, separator: str, start: Position = START) -> Iterator[Read]:
    """Every record, or why it is none, see ``rows_of``; all fields are text.

    Quotes are those of RFC 4180. A quote that is never closed spoils the line on which it stands and no other. In a
    TSV file, where few writers quote, lines that each have all fields are records of their own, whatever quotes are
    in them.

    Raises:
        UserError: a header that cannot be used.
    """
    csv.field_size_limit(LONGEST_FIELD)
    header = header_of(path, separator)
    with open_bytes(path) as file:
        lines = _Lines(file, start)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        skip = start == START
        while True:
            lines.taken = []
            before = lines.number
            fault, record = "", None
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = str(error)
            if record == []:
                continue
            if skip:
                skip = False
                continue
            if record is None or (separator == "\t" and len(lines.taken) > 1):
                record = _alone(lines, len(header), separator, record)
            yield Read(f"line {before + 1}", _row(header, record, fault), (lines.offset, lines.number))


def header_of(path: Path, separator: str) -> list[str]:
    """The names of the columns; none of an empty file.

    Raises:
        UserError: no UTF-8, no CSV, or a name that stands twice.
    """
    with open_bytes(path) as file:
        try:
            reader = csv.reader(_Lines(file, START), delimiter=separator, strict=True)
            names = next((record for record in reader if record), [])
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as CSV: its header is broken ({error}): mend it") from error
    if not _is_utf8(names):
        raise UserError(f"{path} cannot be read as CSV: its header is not UTF-8: write it anew as UTF-8 text")
    names = [name or f"column {number}" for number, name in enumerate(names, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}, line 1: the column {twice!r} stands twice in the header: rename one")
    return names


def _alone(lines: _Lines, width: int, separator: str, record: list[str] | None) -> list[str] | None:
    """What the first line of a doubtful record is by itself, the others being put back; or the record as it is."""
    literal = [line.decode("utf-8", "surrogateescape").rstrip("\r\n").split(separator) for line in lines.taken]
    if separator == "\t" and (len(literal[0]) == width if record is None else all(len(f) == width for f in literal)):
        lines.keep_first()
        return literal[0]
    if record is not None:
        return record
    first = lines.keep_first()
    if first.count('"') % 2:  # not closed on this line
        return None
    found = next(csv.reader([first], delimiter=separator), [])  # as lenient as most readers of CSV
    return found if len(found) == width else None


def _row(header: list[str], record: list[str] | None, fault: str) -> dict[str, str] | BadRow:
    if record is None:
        unclosed = fault == "unexpected end of data"
        return BadRow(NOT_CSV, "a quote is opened and never closed" if unclosed else fault)
    if not _is_utf8(record):
        return BadRow(NOT_UTF8, "invalid bytes")
    if len(record) != len(header):
        return BadRow(WIDTH, f"{len(record)} fields where the header has {len(header)}")
    return dict(zip(header, record, strict=True))


def _is_utf8(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True
