"""Rows of any shape as token ids, with those that cannot be used counted and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.columns import Layout, Opened
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.faults import RowFault, check_on_bad_row
from rlhf_lightning.data.places import Provenance, place_of
from rlhf_lightning.data.preparation import mapped
from rlhf_lightning.data.reporting import report
from rlhf_lightning.data.sources import Source
from rlhf_lightning.data.truncation import check_overlong, cut_limit
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features


Amend = Callable[[dict[str, Any], int], dict[str, Any] | None]


def encode_sources(
    opened: Opened,
    *,
    read: Callable[[dict[str, Any]], tuple[list[str], Any]],
    build: Callable[..., dict[str, Any]],
    encoder: Encoder,
    features: Features,
    options: str,
    max_length: int | None,
    overlong: str,
    on_bad_row: str,
    what: str,
    key: str,
    counts: Counter[str],
    amend: Callable[[Dataset, Layout], Amend] | None = None,
    provenance: Provenance | None = None,
) -> list[tuple[Dataset, Dataset]]:
    """(the encoding of every row, the rows in use) of each source; ``counts["rows"]`` counts the latter.

    Args:
        opened: the sources.
        build: as for ``encode_rows``; also gets the tokens that rows are cut to (``limit``, or None) and ``overlong``.
        max_length: most tokens of a row; None for no limit.
        amend: (rows of a source, layout) -> ``amend`` of ``encode_rows``.
        provenance: is told what every source gave, and which rows are in use.
        read, encoder, features, options, on_bad_row: see ``encode_rows``.
        overlong, what, key, counts: see ``keep``.
    """
    limit = cut_limit(overlong, max_length)
    tables = []
    for source, layout in opened:
        encoded = encode_rows(
            source,
            layout=layout,
            read=read,
            build=partial(build, limit=limit, overlong=overlong),
            encoder=encoder,
            features=features,
            options=f"{options} {overlong if limit else ''} {limit}",
            on_bad_row=on_bad_row,
            amend=None if amend is None else amend(source.rows, layout),
        )
        own = Counter(rows=0)
        rows, used = keep(encoded, source, limit=max_length, overlong=overlong, what=what, key=key, counts=own)
        own["rows"] = len(rows)
        counts.update(own)
        if provenance is not None:
            provenance.add(source, own, used)
        tables.append((encoded, rows))
    return tables


def encode_rows(
    source: Source,
    *,
    layout: Layout,
    read: Callable[[dict[str, Any]], tuple[list[str], Any]],
    build: Callable[[list[list[int]], Any], dict[str, Any]],
    encoder: Encoder,
    features: Features,
    options: str,
    on_bad_row: str = "raise",
    amend: Amend | None = None,
) -> Dataset:
    """Like ``encode_source``, for rows in any shape, with the texts of many rows tokenised at once.

    The result has one row per row of the file, also for rows that are not to be used: its column ``left_out`` is the
    name under which such a row is counted, else empty. See ``keep``.

    Args:
        source: the file.
        layout: how its columns are read.
        read: row under our names -> (texts to tokenise, anything else that ``build`` needs); raises ``RowFault``.
        build: (ids of the texts, the rest) -> columns as in ``features``, and ``left_out`` for a row that is not used.
        encoder: tokenises.
        features: columns of the result but ``left_out``.
        options: anything else that changes the result.
        on_bad_row: what a ``RowFault`` does: "raise", or "skip".
        amend: row under our names and its number -> the row to read, or None for one that is merged into another.

    Errors:
        UserError: a bad row, named by file and line.
    """
    from datasets import Features, List, Value

    check_on_bad_row(on_bad_row)
    blank: dict[str, Any] = {
        name: [] if isinstance(kind, List) else "" if kind.dtype == "string" else 0 for name, kind in features.items()
    }

    def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows: list[dict[str, Any]] = []
        texts: list[str] = []
        pending: list[tuple[int, slice, Any]] = []
        for index, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
            row: dict[str, Any] | None = layout.read(dict(zip(batch, values, strict=True)))
            if amend is not None and row is not None:
                row = amend(row, index)
            if row is None:
                rows.append({**blank, "left_out": "rows_merged"})
                continue
            try:
                found, rest = read(row)
            except RowFault as fault:
                if on_bad_row == "raise":
                    raise UserError(f"{place_of(source, index)}: {fault}") from fault
                rows.append({**blank, "left_out": f"skipped_{fault.reason}"})
                continue
            pending.append((len(rows), slice(len(texts), len(texts) + len(found)), rest))
            texts += found
            rows.append({})
        ids = encoder.tokenize(texts)
        for position, own, rest in pending:
            rows[position] = {**blank, "left_out": "", **build(ids[own], rest)}
        return {name: [row[name] for row in rows] for name in (*features, "left_out")}

    return mapped(
        source,
        source.rows.select_columns(layout.columns),
        encode_batch,
        encoder=encoder,
        features=Features({**features, "left_out": Value("string")}),
        options=f"{options} {layout} {on_bad_row}",
        batched=True,
    )


def keep(
    rows: Dataset,
    source: Source,
    *,
    limit: int | None,
    overlong: str,
    what: str,
    key: str,
    counts: Counter[str],
) -> tuple[Dataset, NDArray[np.int64]]:
    """The rows that can be used and are within the limit, and their numbers; what is left out is counted and logged.

    Args:
        rows: the result of ``encode_rows`` for ``source``, with a column ``length``.
        limit: most tokens; None for no limit.
        overlong: see ``OVERLONG``; rows were cut before by the ``keep_...`` choices.
        what: what is counted, for the error ("prompt and response").
        key: the argument that sets the limit, for the error.
        counts: is added to.

    Errors:
        UserError: a row over the limit with ``overlong="error"``, or no row left.
    """
    import pyarrow.compute as pc

    check_overlong(overlong)
    for name, number in source.skipped.items():
        counts[f"skipped_{name.replace(' ', '_')}"] += number
    reasons = rows.data.column("left_out")
    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons).to_pylist() if entry["values"]}
    counts.update(found)
    used = pc.equal(reasons, "").to_numpy()
    skipped = {name: number for name, number in found.items() if name.startswith("skipped_")}
    if skipped:
        listed = ", ".join(f"{name.removeprefix('skipped_')} {number}" for name, number in sorted(skipped.items()))
        report("%s: %d of %d rows skipped: %s", source.path, sum(skipped.values()), len(rows), listed)
        if sum(skipped.values()) == len(rows):
            raise UserError(
                f"{source.path}: all {len(rows)} rows are bad ({listed}): mend them, or name their columns with "
                "data.columns; data.on_bad_row=raise says what is wrong with the first"
            )
    if limit is not None:
        lengths = rows.data.column("length").to_numpy()
        long = used & (lengths > limit)
        if long.any() and overlong == "error":
            first = int(np.flatnonzero(long)[0])
            raise UserError(
                f"{place_of(source, first)}: {what} have length {lengths[first]} and the limit is {limit}: "
                f"set data.overlong=drop or raise data.{key}"
            )
        dropped = int(long.sum()) + found.get("overlong_rows_dropped", 0)
        if dropped and dropped == used.sum() + found.get("overlong_rows_dropped", 0):
            raise UserError(f"{source.path}: all {dropped} rows are over the limit of {limit} tokens: raise data.{key}")
        if dropped:
            counts["overlong_rows_dropped"] += int(long.sum())
            report("%s: %d of %d rows over %d tokens dropped", source.path, dropped, len(rows), limit)
        used &= ~long
    if "cut" in rows.column_names:
        cut = int((rows.data.column("cut").to_numpy() * used).sum())
        if cut:
            counts["overlong_rows_cut"] += cut
            report("%s: %d of %d rows cut to %d tokens (%s)", source.path, cut, len(rows), limit, overlong)
    rows = rows.remove_columns([name for name in ("left_out", "cut") if name in rows.column_names])
    numbers = np.flatnonzero(used)
    return rows if used.all() else rows.select(numbers), numbers


def refuse_nothing(sources: Sequence[Source], counts: Mapping[str, int]) -> None:
    """Refuse files of which no row is left.

    Errors:
        UserError: says what became of the rows.
    """
    if not counts["rows"]:
        names = ", ".join(source.path for source in sources)
        left_out = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        raise UserError(f"{names}: no row is left ({left_out}): mend the data or change what is left out")


def total(rows: Dataset, column: str) -> int:
    """Sum of a column of numbers."""
    import pyarrow.compute as pc

    return int(pc.sum(rows.select_columns(column).with_format("arrow")[:].column(column)).as_py() or 0)
