"""Token ids of whole files, computed once and kept as memory-mapped tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.mixing import Mixture, weights_of
from rlhf_lightning.data.sources import Source, quiet_datasets
from rlhf_lightning.data.unreadable import writing_to_cache

if TYPE_CHECKING:
    from datasets import Dataset, Features


def encode_source(
    source: Source,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    encoder: Encoder,
    features: Features,
    options: str,
) -> Dataset:
    """Apply ``encode(row)`` to every row of a file, or read the result of an earlier run.

    The cached result is named by a hash that is computed here: the file's content, the tokenizer's own definition, the
    options and the source code of this package. The hash that ``datasets`` would take instead pickles the tokenizer,
    which is slow and, because a tokenizer carries the state of its last call, differs from run to run.

    Args:
        source: the file.
        encode: row -> columns as in ``features``.
        encoder: what ``encode`` uses.
        features: columns of the result.
        options: anything else that changes the result.
    """

    def encode_row(row: dict[str, Any], _: int) -> dict[str, Any]:
        return encode(row)

    return mapped(source, source.rows, encode_row, encoder=encoder, features=features, options=options)


def mapped(
    source: Source,
    rows: Dataset,
    function: Callable[..., dict[str, Any]],
    *,
    encoder: Encoder,
    features: Features,
    options: str,
    batched: bool = False,
) -> Dataset:
    """``rows.map(function)`` under a name of our own, see ``encode_source``; ``function`` also gets row numbers."""
    parts = [source.digest, encoder.fingerprint(), options, _code()]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    with quiet_datasets(source.rows.data.nbytes), writing_to_cache():
        return rows.map(
            function,
            with_indices=True,
            batched=batched,
            remove_columns=rows.column_names,
            features=features,
            new_fingerprint=fingerprint,
            desc=f"Encoding {Path(source.path).name}",
        )


def join(tables: Sequence[Dataset], sources: Sequence[Source] = ()) -> Any:
    """One table from the encoded rows of several sources: a ``Dataset``, or a ``Mixture`` where sources have weights.

    Args:
        tables: the rows of each source; empty ones are left out.
        sources: where the tables come from, one by one.
    """
    from datasets import concatenate_datasets

    weights = weights_of([source.weight for source in sources])
    if weights is None:
        filled = [table for table in tables if len(table)]
        return filled[0] if len(filled) == 1 else concatenate_datasets(filled)
    kept = [index for index, table in enumerate(tables) if len(table)]
    return Mixture(
        [tables[index] for index in kept],
        weights=[weights[index] for index in kept],
        names=[sources[index].path for index in kept],
    )


def _code() -> str:
    """Hash of this package's source, so that results of an older version are never read by a newer one."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
