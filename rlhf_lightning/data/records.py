"""One row of a file, read by itself, with its place."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

NOT_UTF8 = "not UTF-8"
Position = tuple[int, int]
"""Where to read on: bytes (unzipped) and lines before it; in a .json list the entries before it, and 0."""
START: Position = (0, 0)


class BadRow(NamedTuple):
    """Why a row cannot be read."""

    kind: str
    detail: str


class Read(NamedTuple):
    """One row of a file."""

    place: str
    """Where it begins: "line 3"; of a .json list "row 3"."""
    row: dict[str, Any] | BadRow
    end: Position
    """Behind it."""


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, unzipped."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
