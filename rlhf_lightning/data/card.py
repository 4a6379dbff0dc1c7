"""What a run is trained on, as a record beside its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.data.specs import Files, Spec, specs_of
from rlhf_lightning.data.writing import whole_file

ROLES = {"train": "streaming", "validation": None, "demonstrations": None, "text": "text_streaming"}
"""What a data module reads, and its option that makes it a stream, which has no rows to count."""
CARD = "data.json"


def data_card(data: Any) -> dict[str, Any]:
    """Sources, counts and tokenizer of a data module of this package, after its ``setup``.

    - ``sources``: for ``train``, ``validation``, ``demonstrations`` and ``text``, as the module has them, a list of
      sources: path or hub id with config, split and revision (the commit where it is known), weight, columns, adapter,
      rows, rows left out at reading by kind, a hash of the content (SHA-256 of a file as it stands), the rows that an
      adapter makes, and what the source gave and what was left out and why. A stream has no rows and no hash.
    - ``counts``: the same of all sources of each of these together, with what is done to them together.
    - ``tokenizer``: the hash of all that decides the ids.
    """
    on_bad_row = getattr(data, "on_bad_row", "raise")
    sources = {}
    provenance: Mapping[str, Provenance] = getattr(data, "provenance", {})
    for role, streaming in ROLES.items():
        files = getattr(data, role, None)
        # LightningDataModule has methods of its own, and a user's module may have one by such a name.
        if files is None or callable(files):
            continue
        if streaming is not None and getattr(data, streaming, False):
            sources[role] = [{**_named(spec), "streaming": True} for spec in specs_of(files)]
        else:
            sources[role] = _read(files, sample_by=getattr(data, "sample_by", "document"), on_bad_row=on_bad_row)
            gave = provenance[role].counts if role in provenance else []
            for entry, counts in zip(sources[role], gave, strict=False):  # none before `setup`
                entry["counts"] = counts
    encoder = getattr(data, "encoder", None)
    return {
        "sources": sources,
        "counts": {role: dict(found.totals) for role, found in provenance.items() if found.totals},
        "tokenizer": None if encoder is None else encoder.fingerprint(),
    }


def write_data_card(data: Any, folder: str | Path) -> Path:
    """Write ``data_card(data)`` to ``folder``/data.json; the file is there only when it is complete."""
    path = Path(folder) / CARD
    with whole_file(path) as partial:
        partial.write_text(json.dumps(data_card(data), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _read(files: Files, *, sample_by: str, on_bad_row: str) -> list[dict[str, Any]]:
    # The sources are in the cache by now, so that opening them again is cheap.
    sources = load_sources(files, sample_by=sample_by, on_bad_row=on_bad_row)
    return [
        {
            **_named(spec),
            **({} if source.revision is None else {"revision": source.revision}),
            "rows": source.read,
            "unreadable_rows": dict(source.skipped),
            "hash": source.content,
            **({} if source.adapter is None else {"adapted_rows": len(source.rows)}),
        }
        for spec, source in zip(specs_of(files), sources, strict=True)
    ]


def _named(spec: Spec) -> dict[str, Any]:
    if spec.path is not None:
        named: dict[str, Any] = {"path": spec.path}
    else:
        named = {"hub": spec.hub, "config": spec.config, "split": spec.split, "revision": spec.revision}
    extra: Mapping[str, Any] = {
        "files": spec.files,
        "weight": spec.weight,
        "columns": None if spec.columns is None else dict(spec.columns),
        "adapter": spec.adapter,
    }
    return named | {name: value for name, value in extra.items() if value is not None}
