"""Rows one by one with their places, those that cannot even be read among them; and the file without these."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_lightning.data.csv_rows import csv_rows
from rlhf_lightning.data.records import NOT_UTF8, START, BadRow, Position, Read, open_bytes

NOT_JSON = "not valid JSON"
NO_OBJECT = "no JSON object"
TWICE = "key given twice"
HALF_LETTER = "half a letter"


def rows_of(path: Path, builder: str, *, start: Position = START) -> Iterator[Read]:
    """Every row of a .jsonl, .json, .csv or .tsv file, plain or gzipped, or why it is none; slow but thorough.

    Args:
        path: the file.
        builder: "json" or "csv".
        start: the ``end`` of the row before, to go on behind it.

    Raises:
        UserError: a CSV file whose header cannot be used.
        UNREADABLE: what cannot be opened or unzipped.
    """
    if builder == "csv":
        yield from csv_rows(path, separator_of(path), start)
    elif ".json" in path.suffixes and _starts_with(path, b"["):
        yield from _list_rows(path, start)
    else:
        yield from _json_lines(path, start)


def separator_of(path: Path) -> str:
    """What parts the fields of a .csv or .tsv file."""
    return "\t" if ".tsv" in [ending.lower() for ending in path.suffixes] else ","


def write_readable(path: Path, builder: str, out: Path) -> dict[str, int]:
    """Write the readable rows of ``path`` to ``out`` as JSON lines; returns how many were left out, by kind."""
    skipped: Counter[str] = Counter()
    with out.open("w", encoding="utf-8") as file:
        for _, row, _ in rows_of(path, builder):
            if isinstance(row, BadRow):
                skipped[row.kind] += 1
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return dict(skipped)


def _json_lines(path: Path, start: Position) -> Iterator[Read]:
    offset, first = start
    with open_bytes(path) as file:
        file.seek(offset)
        for number, line in enumerate(file, first + 1):
            offset += len(line)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield Read(f"line {number}", _json_row(line), (offset, number))


def _json_row(line: bytes) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        return BadRow(NOT_UTF8, f"{error.reason} at byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return BadRow(NOT_JSON, f"{error.msg} at column {error.colno}")
    except KeyError as error:
        return BadRow(TWICE, f"{error.args[0]!r} stands twice in an object")
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets without end
        return BadRow(NOT_JSON, str(error))
    return _checked(row, may_be_half=b"\\u" in line)


def _list_rows(path: Path, start: Position) -> Iterator[Read]:
    with open_bytes(path) as file:
        content = file.read()
    try:
        rows = json.loads(content.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Read(f"line {line}", BadRow(NOT_UTF8, error.reason), START)
        return
    except json.JSONDecodeError as error:
        yield Read(f"line {error.lineno}", BadRow(NOT_JSON, f"{error.msg} at column {error.colno}"), START)
        return
    for number in range(start[0], len(rows)):
        yield Read(f"row {number + 1}", _checked(rows[number], may_be_half=True), (number + 1, 0))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return found


def _checked(row: Any, *, may_be_half: bool) -> dict[str, Any] | BadRow:
    if not isinstance(row, dict):
        return BadRow(NO_OBJECT, "a row must be an object, {...}")
    if may_be_half:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            return BadRow(HALF_LETTER, f"{half} is one half of a pair, as a text cut within an emoji has")
    return row


def _starts_with(path: Path, letter: bytes) -> bool:
    with open_bytes(path) as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == letter
