"""Local files as memory-mapped tables, read once and then found again by their content."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.bad_lines import rows_of, separator_of, write_readable
from rlhf_lightning.data.csv_table import read_csv
from rlhf_lightning.data.records import BadRow, open_bytes
from rlhf_lightning.data.reporting import tell
from rlhf_lightning.data.stories import stories_of
from rlhf_lightning.data.unreadable import NOT_WRITABLE, UNREADABLE, no_access, read_counts, unreadable, write_counts
from rlhf_lightning.data.writing import whole_file, write_rows
from rlhf_lightning.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
SAMPLE_BY = ("document", "paragraph", "line", "story")
"""What a row of a .txt file is: the whole file; up to a blank line; a line; up to a single newline, a blank line being
the end of a paragraph."""
ZIPPED = ("json", "csv", "text")
"""Builders that read .gz."""
SHOW_PROGRESS_ABOVE = 64 * 2**20
"""Bytes of input from which on the work takes long enough to show a progress bar."""


def builder_of(path: Path, sample_by: str) -> tuple[str, dict[str, Any]]:
    """The builder of ``datasets`` for a local file, and its options.

    Errors:
        UserError: no such file, an unknown kind of file, an unknown ``sample_by``.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: give the path of a data file")
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    zipped = endings[-1:] == [".gz"]
    ending = endings[-2] if zipped and len(endings) > 1 else "".join(endings[-1:])
    builder = BUILDERS.get(ending)
    if builder is None or (zipped and builder not in ZIPPED):
        raise UserError(
            f"{path}: unknown kind of file {''.join(endings)!r}; use {', '.join(BUILDERS)} "
            "(all but .parquet and .arrow also as .gz)"
        )
    if builder == "text":
        if sample_by not in SAMPLE_BY:
            raise UserError(f"sample_by must be {', '.join(SAMPLE_BY[:-1])} or {SAMPLE_BY[-1]}, not {sample_by!r}")
        return builder, {"sample_by": sample_by}
    return builder, {}


def is_plain_text(path: str) -> bool:
    """Whether a path names a .txt file, in which a blank line is no fault."""
    return path.lower().removesuffix(".gz").endswith(".txt")


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, taken once per process."""
    try:
        status = path.stat()
        # The time of the last change of any kind cannot be set back, unlike the modification time.
        return _digest(str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}: change its permissions or its place") from error


def cache_folder(digest: str) -> Path:
    """Where the rows of a file with this content are kept.

    ``datasets`` tells files apart by path and modification time, which a copy or a checkout can leave unchanged: a
    cache folder of its own for every content makes a stale hit impossible.
    """
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "rlhf_lightning" / digest[:20]


def read_file(path: Path, *, sample_by: str, on_bad_row: str) -> tuple[Dataset, dict[str, int], str]:
    """The rows of a local file, how many were left out, by kind, and the hash of its content.

    Args:
        path: the file.
        sample_by: what a row of a .txt file is.
        on_bad_row: what a row that cannot be read does: "raise", or "skip" to leave it out with a count (.jsonl,
            .json, .csv and .tsv; other kinds have no rows that break alone).

    Errors:
        UserError: names the file and the line.
    """
    builder, options = builder_of(path, sample_by)
    digest = digest_of(path)
    cache = cache_folder(digest)
    if builder == "csv":
        try:
            return *read_csv(path, separator_of(path), cache, strict=on_bad_row == "raise"), digest
        except UNREADABLE as error:
            raise UserError(no_access(path, error)) from error
    if options.get("sample_by") == "story":
        stories = _write_stories(path, digest)
        return read_table(stories, "json", {}, digest_of(stories)), {}, digest
    try:
        return read_table(path, builder, options, digest), {}, digest
    except UserError:
        if on_bad_row != "skip" or builder != "json":
            raise
    readable = cache / "readable-1.jsonl"
    skipped = read_counts(readable)
    if skipped is None:
        try:
            with whole_file(readable) as partial:
                skipped = write_readable(path, builder, partial)
            write_counts(readable, skipped)
        except UNREADABLE as error:
            raise UserError(no_access(path, error)) from error
    if not skipped:  # every row can be read by itself, so that the fault lies elsewhere and has been told
        return read_table(path, builder, options, digest), {}, digest
    if readable.stat().st_size == 0:
        raise UserError(f"{path}: none of its {sum(skipped.values())} rows can be read: mend the file")
    tell(f"{path}: rows left out at reading", skipped)
    return read_table(readable, "json", {}, digest_of(readable)), skipped, digest


def read_table(path: Path, builder: str, options: dict[str, Any], digest: str) -> Dataset:
    """The rows of a local file as one memory-mapped table.

    Errors:
        UserError: a file without rows, or with a row that cannot be read.
    """
    import datasets
    import pyarrow as pa
    from datasets.exceptions import DatasetGenerationError

    cache = cache_folder(digest)

    def load() -> Dataset:
        return datasets.load_dataset(
            builder, data_files=str(path.absolute()), split="train", cache_dir=str(cache), **options
        )

    try:
        with quiet_datasets(path.stat().st_size):
            rows = load()
    except (DatasetGenerationError, StopIteration, ValueError, *UNREADABLE) as error:
        raise UserError(_diagnosis(path, builder, error)) from error
    if len(rows) == 0 or not rows.column_names:
        raise UserError(f"{path} has no rows: an empty dataset cannot be used")
    checked = cache / f"checked-{builder}-{options.get('sample_by', '')}"
    if not checked.exists():
        try:
            rows.data.validate(full=True)  # the JSON reader of pyarrow lets through bytes that are no UTF-8
        except pa.ArrowInvalid as error:
            raise UserError(_diagnosis(path, builder, error)) from error
        checked.touch()
        with quiet_datasets(0):
            return load()  # mapped anew, so that the pages that the check has touched are given back
    return rows


@contextlib.contextmanager
def quiet_datasets(bytes_of_input: int) -> Iterator[None]:
    """Switch off the progress bars of ``datasets`` for small inputs, and its logging of errors that we report."""
    import datasets

    bars_on = not datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if bars_on and bytes_of_input < SHOW_PROGRESS_ABOVE:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars_on:
            datasets.enable_progress_bars()


@functools.lru_cache(maxsize=256)
def _digest(path: str, *status: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_stories(path: Path, digest: str) -> Path:
    """The documents of a file whose rows are stories, which no builder of ``datasets`` knows, as JSON lines."""
    written = cache_folder(digest) / "stories.jsonl"
    if not written.is_file():
        try:
            write_rows(written, stories_of(path))
        except (UnicodeDecodeError, *UNREADABLE) as error:
            raise UserError(_diagnosis(path, "text", error)) from error
    if not written.stat().st_size:
        raise UserError(f"{path} has no rows: an empty dataset cannot be used")
    return written


def _diagnosis(path: Path, builder: str, error: BaseException) -> str:
    """Why a file could not be read, from a second look at it."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.errno in NOT_WRITABLE:
        return no_access(path, cause)
    if builder in ("parquet", "arrow"):
        return f"{path} is not a readable {builder} file: {one_line(cause)}"
    empty = True
    try:
        if builder == "text":
            with open_bytes(path) as file:
                for number, line in enumerate(file, 1):
                    empty = False
                    try:
                        line.decode()
                    except UnicodeDecodeError as fault:
                        return f"{path}, line {number}: not UTF-8 text ({fault.reason}): convert the file"
        else:
            for read in rows_of(path, builder):
                empty = False
                if isinstance(read.row, BadRow):
                    return unreadable(path, read.place, read.row)
        if empty:
            return f"{path} has no rows: an empty dataset cannot be used"
    except UNREADABLE as fault:
        return no_access(path, fault)
    return f"{path} cannot be read as {builder}: {one_line(cause)}"
