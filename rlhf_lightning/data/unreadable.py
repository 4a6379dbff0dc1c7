"""What is told and kept of rows and files that cannot be read."""

from __future__ import annotations

import contextlib
import errno
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from rlhf_lightning.data.records import BadRow
from rlhf_lightning.data.writing import whole_file
from rlhf_lightning.errors import UserError, one_line

UNREADABLE = (OSError, EOFError, zlib.error)
"""What a damaged or forbidden file raises."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Of an ``OSError`` while data are prepared: what was to be read has been read once by then, for its hash."""


def unreadable(path: Path | str, place: str, bad: BadRow) -> str:
    """What is wrong with a row that cannot be read, and the ways out."""
    return (
        f"{path}, {place}: {bad.kind} ({bad.detail}): mend or remove the row, or leave it out with data.on_bad_row=skip"
    )


@contextlib.contextmanager
def writing_to_cache() -> Iterator[None]:
    """Say what to do where prepared data cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise UserError(_not_writable(error)) from error


def no_access(path: Path, error: BaseException) -> str:
    """Why a file cannot be read or its prepared rows cannot be written, and the way out."""
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
        return _not_writable(error)
    return f"{path} cannot be read: {one_line(error)}: write it anew as UTF-8 text"


def write_counts(table: Path, skipped: dict[str, int]) -> None:
    """Keep what was left out of a table beside it."""
    with whole_file(_counts(table)) as partial:
        partial.write_text(json.dumps(skipped))


def read_counts(table: Path) -> dict[str, int] | None:
    """What was left out of a table; None where there is none, or none that was written to its end."""
    try:
        skipped: dict[str, int] = json.loads(_counts(table).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return skipped if table.is_file() else None


def _counts(table: Path) -> Path:
    return table.with_suffix(".skipped.json")


def _not_writable(error: OSError) -> str:
    what = error.filename or "The cache of prepared data"
    return f"{what} cannot be written ({error.strerror}): set HF_DATASETS_CACHE to a folder for the prepared data"
