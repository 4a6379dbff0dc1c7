"""Sources of data as memory-mapped tables, with errors that say where the bad row is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_lightning.data.adapters import adapt
from rlhf_lightning.data.faults import check_on_bad_row
from rlhf_lightning.data.hub import describe_hub, load_hub
from rlhf_lightning.data.places import place_of
from rlhf_lightning.data.readers import quiet_datasets, read_file
from rlhf_lightning.data.specs import Files, Spec, specs_of
from rlhf_lightning.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Files", "Source", "load_rows", "load_sources", "quiet_datasets"]


class Source(NamedTuple):
    """One source's rows, and a hash of its content, which cached results depend on."""

    path: str
    """Its path or dataset id, for errors."""
    rows: Dataset
    digest: str
    skipped: Mapping[str, int] = {}
    """Rows that could not be read and were left out, by kind."""
    weight: float | None = None
    """Relative number of training samples drawn from it; None for its share of all rows."""
    columns: Mapping[str, Any] | None = None
    """Expected name -> name in this source, where the source says so itself."""
    revision: str | None = None
    """Commit of a hub dataset, where it is known."""
    adapter: str | None = None
    """What its rows went through."""
    content: str = ""
    """Hash of the source as it stands, before rows were left out or adapted."""
    read: int = 0
    """Rows of the source as it stands, those that cannot be read included."""


def load_rows(
    files: Files, *, fields: tuple[str, ...], sample_by: str = "document", on_bad_row: str = "raise"
) -> Dataset:
    """Read the rows of one or more sources into one memory-mapped ``datasets.Dataset``; extra columns are kept.

    Args:
        files: paths of .jsonl, .json, .csv, .tsv, .txt (also gzipped, .gz), .parquet or .arrow files, or mappings as
            ``Spec``, also of hub datasets.
        fields: columns that every row must have as non-empty text.
        sample_by: what a row of a .txt file is: "document" (the whole file), "paragraph" (up to a blank line),
            "line" or "story" (up to a single newline; a blank line ends a paragraph of it).
        on_bad_row: what a row that cannot be read does: "raise", or "skip" to leave it out with a count.

    Errors:
        UserError: a source that is missing, unreadable, empty or of an unknown kind; a row without a needed field.
    """
    from datasets import concatenate_datasets

    sources = load_sources(files, fields=fields, sample_by=sample_by, on_bad_row=on_bad_row)
    try:
        return concatenate_datasets([source.rows for source in sources])
    except ValueError as error:
        names = ", ".join(source.path for source in sources)
        raise UserError(f"The columns of {names} have different types: {one_line(error)}; write them alike") from error


def load_sources(
    files: Files, *, fields: tuple[str, ...] = (), sample_by: str = "document", on_bad_row: str = "raise"
) -> list[Source]:
    """Like ``load_rows``, source by source."""
    check_on_bad_row(on_bad_row)
    sources = [_load(spec, sample_by, on_bad_row) for spec in specs_of(files)]
    for source in sources:
        for field in fields:
            require_text(source, field)
    return sources


def _load(spec: Spec, sample_by: str, on_bad_row: str) -> Source:
    revision: str | None = None
    skipped: dict[str, int] = {}
    if spec.path is not None:
        rows, skipped, digest = read_file(Path(spec.path), sample_by=sample_by, on_bad_row=on_bad_row)
    else:
        with quiet_datasets(2**62):
            rows = load_hub(spec)
        digest, revision = describe_hub(spec, rows)
        if len(rows) == 0:
            raise UserError(f"{spec.name} has no rows: an empty dataset cannot be used")
    content, read = digest, len(rows) + sum(skipped.values())
    if spec.adapter is not None:
        rows, digest = adapt(rows, spec.adapter, name=spec.name, digest=digest)
    if skipped:  # what is encoded from the readable rows is not what the whole file would give
        digest = hashlib.sha256(f"{digest} readable".encode()).hexdigest()
    return Source(spec.name, rows, digest, skipped, spec.weight, spec.columns, revision, spec.adapter, content, read)


def require_text(source: Source, field: str) -> None:
    """Every row has ``field`` as text that is not blank; whole columns at once, so that it is cheap."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = source.rows.column_names
    if field not in columns:
        raise UserError(
            f"{place_of(source, 0)}: no field {field!r}; the fields are {', '.join(columns)}: "
            "rename one, name it with columns, or convert the file"
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
    raise UserError(f"{place_of(source, index)}: {problem}: mend or remove the row")
