"""Datasets of the Hugging Face Hub, by id, configuration, split and revision."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.specs import Spec
from rlhf_lightning.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub(spec: Spec, *, streaming: bool = False) -> Any:
    """The ``datasets.Dataset`` of a source with a hub id; with ``streaming`` its ``IterableDataset``.

    Errors:
        UserError: a dataset, configuration or split that does not exist or cannot be reached.
    """
    import datasets

    options: dict[str, Any] = {"data_files": {spec.split: spec.files}} if spec.files else {}
    try:
        return datasets.load_dataset(
            str(spec.hub), spec.config, split=spec.split, revision=spec.revision, streaming=streaming, **options
        )
    except (ValueError, OSError, RuntimeError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        offline = datasets.config.HF_HUB_OFFLINE and isinstance(error, OSError)
        way_out = (
            "HF_HUB_OFFLINE=1 forbids to download it and no copy is cached: unset HF_HUB_OFFLINE or give a local file "
            "as path"
            if offline
            else "check the id, config, split and revision, log in (hf auth login) if it is gated, or download a file "
            "and give it as path"
        )
        raise UserError(f"The dataset {spec.name} cannot be loaded ({one_line(error)}): {way_out}") from error


def describe_hub(spec: Spec, rows: Dataset) -> tuple[str, str | None]:
    """A hash that changes with the rows, and the commit they come from (None where it cannot be told)."""
    checksums = rows.info.download_checksums or {}
    files = [Path(file["filename"]) for file in rows.cache_files]
    commit = next((match[1] for url in checksums if (match := re.search(r"@([0-9a-f]{40})/", url))), None)
    facts = [
        [spec.hub, spec.config, spec.split, spec.revision, spec.files, len(rows)],
        sorted(checksums),
        # The table that `datasets` made of it; a local folder has no commit, but is read anew when it changes.
        [[file.name, file.stat().st_size, None if commit else file.stat().st_mtime_ns] for file in files],
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest(), commit
