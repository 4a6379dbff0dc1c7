"""Local files as memory-mapped tables, with errors that say where the bad row is."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Files = str | Path | Sequence[str | Path]
"""One data file or several."""
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
SHOW_PROGRESS_ABOVE = 64 * 2**20
"""Bytes of input from which on the work takes long enough to show a progress bar."""


class Source(NamedTuple):
    """One file's rows, and the hash of its content, which cached results depend on."""

    path: str
    rows: Dataset
    digest: str


def load_rows(files: Files, *, fields: tuple[str, ...], sample_by: str = "document") -> Dataset:
    """Read the rows of one or more files into one memory-mapped ``datasets.Dataset``; extra columns are kept.

    Args:
        files: .jsonl, .json, .parquet, .csv or .txt; .jsonl, .json, .csv and .txt also gzipped (.gz).
        fields: columns that every row must have as non-empty text.
        sample_by: what a row of a .txt file is: "document" (the whole file), "paragraph" (up to a blank line)
            or "line".

    Errors:
        UserError: a file that is missing, unreadable, empty or of an unknown kind; a row without a needed field.
    """
    from datasets import concatenate_datasets

    sources = load_sources(files, fields=fields, sample_by=sample_by)
    try:
        return concatenate_datasets([source.rows for source in sources])
    except ValueError as error:
        names = ", ".join(source.path for source in sources)
        raise UserError(f"The columns of {names} have different types: {_one_line(error)}; write them alike") from error


def load_sources(files: Files, *, fields: tuple[str, ...], sample_by: str = "document") -> list[Source]:
    """Like ``load_rows``, file by file."""
    sources = [_load(path, sample_by) for path in paths_of(files)]
    for source in sources:
        for field in fields:
            _require_text(source, field)
    return sources


def paths_of(files: Files) -> list[Path]:
    """The paths in ``files``, one or several."""
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(file) for file in files]
    if not paths:
        raise UserError("An empty list of data files: name at least one")
    return paths


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines; the file appears only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def _load(path: Path, sample_by: str) -> Source:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: give the path of a data file")
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    zipped = endings[-1:] == [".gz"]
    ending = endings[-2] if zipped and len(endings) > 1 else "".join(endings[-1:])
    builder = BUILDERS.get(ending)
    if builder is None or (zipped and builder == "parquet"):
        raise UserError(
            f"{path}: unknown kind of file {''.join(endings)!r}; use {', '.join(BUILDERS)} "
            "(all but .parquet also as .gz)"
        )
    options: dict[str, Any] = {}
    if builder == "text":
        if sample_by not in ("document", "paragraph", "line"):
            raise UserError(f"sample_by must be document, paragraph or line, not {sample_by!r}")
        options["sample_by"] = sample_by
    if builder == "csv":
        options = _csv_options(path)
    return _load_cached(path, builder, options)


def _load_cached(path: Path, builder: str, options: dict[str, Any]) -> Source:
    import datasets
    import pyarrow as pa
    from datasets.exceptions import DatasetGenerationError

    # `datasets` tells files apart by path and modification time, which a copy or a checkout can leave unchanged:
    # a cache folder of its own for every content makes a stale hit impossible.
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}: change its permissions or its place") from error
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "rlhf_lightning" / digest[:20]
    try:
        with quiet_datasets(path.stat().st_size):
            rows = datasets.load_dataset(
                builder, data_files=str(path.absolute()), split="train", cache_dir=str(cache), **options
            )
    except PermissionError as error:
        raise UserError(
            f"{error.filename} cannot be written: set HF_DATASETS_CACHE to a folder for the prepared data"
        ) from error
    except (DatasetGenerationError, StopIteration, ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(_diagnosis(path, builder, error)) from error
    if len(rows) == 0 or not rows.column_names:
        raise UserError(f"{path} has no rows: an empty dataset cannot be used")
    try:
        rows.data.validate(full=True)  # the JSON reader of pyarrow lets through bytes that are no UTF-8
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not UTF-8 text ({_one_line(error)}): convert it") from error
    return Source(str(path), rows, digest)


def _csv_options(path: Path) -> dict[str, Any]:
    # All columns as text: guessing would turn a prompt "2024" into a number and an answer "None" into a missing one.
    from datasets import Features, Value

    try:
        with _open_text(path) as file:
            header = next(csv.reader(file), [])
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {_one_line(error)}") from error
    return (
        {"features": Features({name: Value("string") for name in header}), "keep_default_na": False} if header else {}
    )


def _require_text(source: Source, field: str) -> None:
    """Every row has ``field`` as text that is not blank; whole columns at once, so that it is cheap."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = source.rows.column_names
    if field not in columns:
        raise UserError(
            f"{source.path}, row 1: no field {field!r}; the fields are {', '.join(columns)}: "
            "rename one or convert the file"
        )
    column = source.rows.data.column(field)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
        index = pc.index(blank, True).as_py()
    else:  # mixed types: look at the rows one by one
        values = enumerate(source.rows[field])
        index = next((i for i, value in values if not isinstance(value, str) or not value.strip()), -1)
    if index < 0:
        return
    value = source.rows[index][field]
    if value is None:
        present = [name for name, entry in source.rows[index].items() if entry is not None]
        problem = f"no field {field!r}; the fields are {', '.join(present) or 'none'}"
    elif isinstance(value, str) and not value.strip():
        problem = f"the field {field!r} is empty"
    else:
        problem = f"the field {field!r} must be text, not {type(value).__name__}"
    raise UserError(f"{source.path}, row {index + 1}: {problem}: mend or remove the row")


def _diagnosis(path: Path, builder: str, error: BaseException) -> str:
    """Why a file could not be read, from a second look at it."""
    if builder == "parquet":
        return f"{path} is not a readable parquet file: {_one_line(error.__cause__ or error)}"
    try:
        with _open_text(path) as file:
            lines = list(islice((line.strip() for line in file if line.strip()), 2))
            if len(lines) < (2 if builder == "csv" else 1) or lines == ["[]"]:  # a CSV file has a header
                return f"{path} has no rows: an empty dataset cannot be used"
        if ".jsonl" in path.suffixes:
            with _open_text(path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip() and not isinstance(json.loads(line), dict):
                        return f"{path}, row {number}: a row must be a JSON object, {{...}}: mend or remove it"
    except json.JSONDecodeError as fault:
        return f"{path}, row {number}: not valid JSON ({fault.msg} at column {fault.colno}): mend or remove the row"
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as fault:
        return f"{path} cannot be read: {_one_line(fault)}: write it anew as UTF-8 text"
    return f"{path} cannot be read as {builder}: {_one_line(error.__cause__ or error)}"


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
