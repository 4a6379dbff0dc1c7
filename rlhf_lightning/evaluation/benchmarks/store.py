"""Answers that were given already: one file for each model, benchmark and prompt type, named by all they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 1
"""Raised when answers are made in another way, so that old ones are not taken for new."""


def key_of(**depends: Any) -> str:
    """Short hash of what answers depend on."""
    text = json.dumps({"version": VERSION, **depends}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """Answers by row in ``<folder>/<key>.jsonl``, added batch by batch, so that a run that was stopped goes on.

    Lines that a crash left half written are dropped.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.file = Path(folder) / f"{key}.jsonl"
        self.known: dict[int, Any] = {}
        if self.file.is_file():
            whole = 0
            with self.file.open("rb") as lines:
                for line in lines:
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        break
                    if not line.endswith(b"\n"):
                        break
                    self.known[int(entry["row"])] = entry["answer"]
                    whole += len(line)
            os.truncate(self.file, whole)

    def add(self, answers: Mapping[int, Any]) -> None:
        """Keep the answers of one batch, on disk before this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            for row, answer in answers.items():
                file.write(json.dumps({"row": row, "answer": answer}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.known |= answers
