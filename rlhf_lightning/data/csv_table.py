"""CSV and TSV files as memory-mapped tables of text."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_lightning.data.csv_rows import csv_rows, header_of
from rlhf_lightning.data.records import BadRow
from rlhf_lightning.data.reporting import tell
from rlhf_lightning.data.unreadable import read_counts, unreadable, write_counts
from rlhf_lightning.data.writing import whole_file
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 10_000
"""Rows that are held in memory at a time."""


def read_csv(path: Path, separator: str, cache: Path, *, strict: bool) -> tuple[Dataset, dict[str, int]]:
    """The readable rows of a CSV file as a memory-mapped table, kept in ``cache``, and how many were left out, by kind.

    Errors:
        UserError: see ``write_csv_table``; a file without rows.
    """
    from datasets import Dataset

    table = cache / ("tsv-1.arrow" if separator == "\t" else "csv-1.arrow")
    skipped = read_counts(table)
    if skipped is None or (strict and skipped):
        skipped = write_csv_table(path, separator, table, strict=strict)
        write_counts(table, skipped)
    rows = Dataset.from_file(str(table))
    if not len(rows):
        if skipped:
            raise UserError(f"{path}: none of its {sum(skipped.values())} rows can be read: mend the file")
        raise UserError(f"{path} has no rows: an empty dataset cannot be used")
    if skipped:
        tell(f"{path}: rows left out at reading", skipped)
    return rows, skipped


def write_csv_table(path: Path, separator: str, out: Path, *, strict: bool) -> dict[str, int]:
    """Write the readable rows of a CSV file to ``out`` as an Arrow stream; returns how many were left out, by kind.

    All columns are text: guessing would turn a prompt "2024" into a number and an answer "None" into a missing one. Our
    own reader and not that of ``datasets``, which shifts the columns of rows that have one field too many.

    Errors:
        UserError: a row that cannot be read, with ``strict``; a header that cannot be used.
    """
    import pyarrow as pa

    skipped: Counter[str] = Counter()
    names = header_of(path, separator)
    schema = pa.schema([(name, pa.string()) for name in names])
    records = csv_rows(path, separator)
    with whole_file(out) as partial, pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while chunk := list(islice(records, CHUNK)):
            rows = []
            for read in chunk:
                if not isinstance(read.row, BadRow):
                    rows.append(read.row)
                elif strict:
                    raise UserError(unreadable(path, read.place, read.row))
                else:
                    skipped[read.row.kind] += 1
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return dict(skipped)
