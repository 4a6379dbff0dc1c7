"""Text files in which a document ends at a single newline and a blank line parts its paragraphs, as in TinyStories."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from rlhf_lightning.data.records import open_bytes


def stories_of(path: str | Path) -> Iterator[dict[str, str]]:
    """Every document of a .txt file, plain or gzipped, as ``{"text": ...}``.

    Raises:
        UnicodeDecodeError: the file is not UTF-8.
    """
    with open_bytes(Path(path)) as file:
        lines: list[str] = []
        for line in io.TextIOWrapper(file, encoding="utf-8-sig"):
            line = line.removesuffix("\n")
            if line and lines and lines[-1]:
                yield from _story(lines)
                lines = []
            lines.append(line)
        yield from _story(lines)


def _story(lines: list[str]) -> Iterator[dict[str, str]]:
    text = "\n".join(lines).strip()
    if text:
        yield {"text": text}
