"""Token ids of whole files, computed once and kept as memory-mapped tables."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.sources import Source, quiet_datasets
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features

log = logging.getLogger(__name__)


def encode_source(
    source: Source,
    encode: Callable[[dict[str, Any], str], dict[str, Any]],
    *,
    encoder: Encoder,
    features: Features,
    options: str,
) -> Dataset:
    """Apply ``encode(row, place)`` to every row of a file, or read the result of an earlier run.

    The cached result is named by a hash that is computed here: the file's content, the tokenizer's own definition, the
    options and the source code of this package. The hash that ``datasets`` would take instead pickles the tokenizer,
    which is slow and, because a tokenizer carries the state of its last call, differs from run to run.

    Args:
        source: the file.
        encode: row and place ("file, row 3", for errors) -> columns as in ``features``.
        encoder: what ``encode`` uses.
        features: columns of the result.
        options: anything else that changes the result.
    """
    parts = [source.digest, encoder.fingerprint(), options, _code()]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def encode_row(row: dict[str, Any], index: int) -> dict[str, Any]:
        return encode(row, f"{source.path}, row {index + 1}")

    with quiet_datasets(Path(source.path).stat().st_size):
        return source.rows.map(
            encode_row,
            with_indices=True,
            remove_columns=source.rows.column_names,
            features=features,
            new_fingerprint=fingerprint,
            desc=f"Encoding {Path(source.path).name}",
        )


def keep_short(
    rows: Dataset, source: Source, *, limit: int | None, overlong: str, what: str, key: str
) -> tuple[Dataset, int]:
    """Rows whose ``length`` is within the limit, and how many were dropped.

    Args:
        rows: encoded rows of ``source`` with a column ``length``.
        limit: most tokens; None for no limit.
        overlong: "error" or "drop".
        what: what is counted, for the error ("prompt and response").
        key: the argument that sets the limit, for the error.

    A report says what was dropped.

    Errors:
        UserError: a row over the limit with ``overlong="error"``, or no row left.
    """
    if overlong not in ("error", "drop"):
        raise UserError(f"overlong must be error or drop, not {overlong!r}")
    if limit is None:
        return rows, 0
    lengths = rows.data.column("length").to_numpy()
    long = np.flatnonzero(lengths > limit)
    if not len(long):
        return rows, 0
    if overlong == "error":
        raise UserError(
            f"{source.path}, row {long[0] + 1}: {what} have length {lengths[long[0]]} and the limit is {limit}: "
            f"set data.overlong=drop or raise data.{key}"
        )
    if len(long) == len(lengths):
        raise UserError(
            f"{source.path}: all {len(lengths)} rows are over the limit of {limit} tokens: raise data.{key}"
        )
    report("%s: %d of %d rows over %d tokens dropped", source.path, len(long), len(lengths), limit)
    return rows.select(np.flatnonzero(lengths <= limit)), len(long)


@rank_zero_only
def report(message: str, *values: object) -> None:
    """Log what was left out of the data, once for all processes."""
    log.info(message, *values)


def join(tables: Sequence[Dataset]) -> Dataset:
    """One table from the encoded rows of several files."""
    from datasets import concatenate_datasets

    return tables[0] if len(tables) == 1 else concatenate_datasets(list(tables))


def _code() -> str:
    """Hash of this package's source, so that results of an older version are never read by a newer one."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
