"""Rows that cannot even be read: where they are, and the file without them."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

NOT_UTF8 = "not UTF-8"
NOT_JSON = "not valid JSON"
NO_OBJECT = "no JSON object"
WIDTH = "wrong number of fields"
UNREADABLE = (OSError, EOFError, zlib.error)
"""What a damaged or forbidden file raises."""


class BadRow(NamedTuple):
    """A row that cannot be read."""

    line: int
    """In the file, from 1; of a .json list the number of the row."""
    kind: str
    detail: str


def rows_of(path: Path, builder: str, *, separator: str = ",") -> Iterator[dict[str, Any] | BadRow]:
    """Every row of a .jsonl, .json, .csv or .tsv file, plain or gzipped, or why it is none; slow but thorough.

    Args:
        path: the file.
        builder: "json" or "csv".
        separator: of a CSV file.

    Raises:
        UNREADABLE: what cannot be opened or unzipped.
    """
    if builder == "csv":
        yield from _csv_rows(path, separator)
    elif ".json" in path.suffixes and _starts_with(path, b"["):
        yield from _list_rows(path)
    else:
        yield from _json_lines(path)


def write_readable(path: Path, builder: str, out: Path, *, separator: str = ",") -> dict[str, int]:
    """Write the readable rows of ``path`` to ``out`` as JSON lines; returns how many were left out, by kind."""
    skipped: Counter[str] = Counter()
    with out.open("w", encoding="utf-8") as file:
        for row in rows_of(path, builder, separator=separator):
            if isinstance(row, BadRow):
                skipped[row.kind] += 1
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return dict(skipped)


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, unzipped."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _json_lines(path: Path) -> Iterator[dict[str, Any] | BadRow]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                yield BadRow(number, NOT_UTF8, f"{error.reason} at byte {error.start + 1} of the line")
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                yield BadRow(number, NOT_JSON, f"{error.msg} at column {error.colno}")
                continue
            except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets without end
                yield BadRow(number, NOT_JSON, str(error))
                continue
            yield row if isinstance(row, dict) else BadRow(number, NO_OBJECT, "a row must be an object, {...}")


def _list_rows(path: Path) -> Iterator[dict[str, Any] | BadRow]:
    with open_bytes(path) as file:
        content = file.read()
    try:
        rows = json.loads(content.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError as error:
        yield BadRow(content.count(b"\n", 0, error.start) + 1, NOT_UTF8, error.reason)
        return
    except json.JSONDecodeError as error:
        yield BadRow(error.lineno, NOT_JSON, f"{error.msg} at column {error.colno}")
        return
    for number, row in enumerate(rows, 1):
        yield row if isinstance(row, dict) else BadRow(number, NO_OBJECT, "a row must be an object, {...}")


def _csv_rows(path: Path, separator: str) -> Iterator[dict[str, Any] | BadRow]:
    with open_bytes(path) as file:
        # Bytes that are no UTF-8 become lone surrogates, which mark their row.
        lines = (line.decode("utf-8-sig" if i == 0 else "utf-8", "surrogateescape") for i, line in enumerate(file))
        reader = csv.reader(lines, delimiter=separator)
        header = next(reader, [])
        for row in reader:
            if not row:
                continue
            if any("\udc80" <= letter <= "\udcff" for value in row for letter in value):
                yield BadRow(reader.line_num, NOT_UTF8, "invalid bytes")
            elif len(row) != len(header):
                yield BadRow(reader.line_num, WIDTH, f"{len(row)} fields where the header has {len(header)}")
            else:
                yield dict(zip(header, row, strict=True))


def _starts_with(path: Path, letter: bytes) -> bool:
    with open_bytes(path) as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == letter
