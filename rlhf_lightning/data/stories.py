"""Text files in which a document ends at a single newline and a blank line parts its paragraphs, as in TinyStories."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_lightning.data.records import open_bytes


def stories(lines: Iterable[str]) -> Iterator[str]:
    """The stories in lines of text, with or without their newlines, without blank space around them."""
    story: list[str] = []
    for line in lines:
        line = line.removesuffix("\n")
        if line and story and story[-1]:
            yield from _text(story)
            story = []
        story.append(line)
    yield from _text(story)


def stories_of(path: str | Path) -> Iterator[dict[str, str]]:
    """Every document of a .txt file, plain or gzipped, as ``{"text": ...}``.

    Raises:
        UnicodeDecodeError: the file is not UTF-8.
    """
    with open_bytes(Path(path)) as file:
        for text in stories(io.TextIOWrapper(file, encoding="utf-8-sig")):
            yield {"text": text}


def _text(lines: list[str]) -> Iterator[str]:
    text = "\n".join(lines).strip()
    if text:
        yield text
