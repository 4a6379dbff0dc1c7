"""Rows of a benchmark's local file."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlhf_lightning.data import load_rows
from rlhf_lightning.errors import UserError

Row = Mapping[str, Any]
T = TypeVar("T")


def read_rows(name: str, file: str | Path, *forms: Sequence[str], key: str = "file") -> list[dict[str, Any]]:
    """The rows of a file that has all columns of at least one of the ``forms``.

    Args:
        name: of the benchmark.
        file: .jsonl, .json, .csv, .tsv or .parquet. All columns of a .csv file are text, so that the answer "None"
            stays one.
        forms: the columns that are needed, in the forms in which the benchmark is known.
        key: the argument that the file came by.

    Raises:
        UserError: no such file, no row, no such columns.
    """
    check_file(name, file, key)
    rows = load_rows(str(file), fields=())
    if not any(set(form) <= set(rows.column_names) for form in forms):
        wanted = " or ".join(", ".join(form) for form in forms)
        raise UserError(
            f"benchmarks.{name}.{key}={file} lacks columns: it needs {wanted}, and has {', '.join(rows.column_names)}"
        )
    return [dict(row) for row in rows]


def read_nested(name: str, file: str | Path, key: str = "file") -> list[Any] | None:
    """The "data" of a JSON file in SQuAD's nested form, or ``None`` for a file of rows.

    Raises:
        UserError: no such file.
    """
    check_file(name, file, key)
    if Path(file).suffix.lower() != ".json":
        return None
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        return None  # JSON lines under the name .json
    return content["data"] if isinstance(content, dict) and isinstance(content.get("data"), list) else None


def check_file(name: str, file: str | Path, key: str = "file") -> None:
    if not Path(file).is_file():
        raise UserError(
            f"benchmarks.{name}.{key}={file} does not exist: give the path of the file, or put it into the folder that "
            "files= names"
        )


def text_of(name: str, file: str | Path, row: Row, column: str, number: int) -> str:
    """A column that must hold text.

    Raises:
        UserError: it is missing, blank or no text.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{file}, row {number}: {column} must be text that is not blank, for benchmarks.{name}")
    return value


def draw(name: str, rows: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """All rows, or ``limit`` of them, drawn by the seed and in the order of the file.

    Raises:
        UserError: a limit below 1, or no rows.
    """
    if limit is not None and limit < 1:
        raise UserError(f"benchmarks.{name}.limit={limit} must be at least 1, or null for all rows")
    if not rows:
        raise UserError(f"benchmarks.{name}: its file has no question that can be asked")
    if limit is None or limit >= len(rows):
        return list(rows)
    # Drawn, not the first: files are sorted by occupation, article or category.
    return [rows[index] for index in sorted(random.Random(f"{name} {seed}").sample(range(len(rows)), limit))]
