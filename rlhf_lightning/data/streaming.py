"""Blocks of text from corpora that do not fit on the disk, in a stream that continues exactly where it stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_lightning.data.records import BadRow
from rlhf_lightning.data.reporting import report, tell
from rlhf_lightning.data.row_streams import RowStream
from rlhf_lightning.data.sampling import permutation
from rlhf_lightning.data.unreadable import unreadable
from rlhf_lightning.errors import CheckpointError, UserError


class Documents(NamedTuple):
    """One source of a stream."""

    name: str
    open: Callable[[], RowStream]
    """A fresh stream of its rows."""
    field: str
    """The column of its text."""
    blank_lines: bool = False
    """Whether rows without text are to be expected."""
    loose: bool = False
    """Whether a row may lack a field that others have."""


class BlockSource:
    """Endless blocks of ``block_size`` tokens over the documents of some sources, one source after the other.

    The position is that of the last document read and the number of its tokens that are used, so that going on costs
    the reading of one document.

    Args:
        parts: the sources.
        encode: text -> token ids.
        block_size: tokens of a block.
        on_bad_row: what a row that cannot be read, or without text, does: "raise" or "skip". What is left out is
            counted, logged at the first of each kind and at the end of a pass.

    Errors:
        UserError: a row that cannot be used, named by file and line; sources without any row.
    """

    def __init__(
        self, parts: Sequence[Documents], *, encode: Callable[[str], list[int]], block_size: int, on_bad_row: str
    ) -> None:
        self.parts = parts
        self.encode = encode
        self.block_size = block_size
        self.on_bad_row = on_bad_row
        self.skipped: Counter[str] = Counter()
        """Rows of this pass that were left out, by kind."""
        self._position: dict[str, Any] = {"part": 0, "rows": None, "used": 0, "skipped": {}}
        self._blocks = self._read(self._position)

    def __next__(self) -> np.ndarray[Any, Any]:
        block, self._position = next(self._blocks)
        return block

    def state_dict(self) -> dict[str, Any]:
        return self._position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = state
        self._blocks = self._read(state)

    def _read(self, position: dict[str, Any]) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
        """Blocks, each with the position behind it."""
        tokens: list[int] = []
        drop = position["used"]
        self.skipped = Counter(position["skipped"])
        for ids, place in self._documents(position["part"], position["rows"]):
            # What is left of earlier documents is less than a block, so the first block here uses all of it.
            used = drop - len(tokens)
            tokens += ids[drop:]
            drop = 0
            start = 0
            while len(tokens) - start >= self.block_size:
                start += self.block_size
                block = np.array(tokens[start - self.block_size : start], dtype=np.int32)
                yield block, {**place, "used": used + start}
            del tokens[:start]

    def _documents(self, part: int, state: Any) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Token ids of every document, each with the position before it."""
        while True:
            found = False
            for index in range(part, len(self.parts)):
                rows = self.parts[index].open()
                before, state = state, None
                if before is not None:
                    rows.load_state_dict(before)
                    found = True  # what came before the position was something
                skipped = dict(self.skipped)
                for place, row in rows:
                    ids = self._ids(place, row, self.parts[index])
                    if ids:
                        found = True
                        yield ids, {"part": index, "rows": before, "skipped": skipped}
                    before, skipped = rows.state_dict(), dict(self.skipped)
            names = ", ".join(documents.name for documents in self.parts)
            if not found and part == 0:
                raise UserError(f"{names}: no row has text: an empty dataset cannot be used")
            if self.skipped:
                tell(f"{names}: rows left out in a pass", self.skipped)
            self.skipped = Counter()
            part = 0

    def _ids(self, place: str, row: dict[str, Any] | BadRow, documents: Documents) -> list[int]:
        if isinstance(row, BadRow):
            return self._leave_out(row.kind, unreadable(documents.name, place, row), place, documents)
        text = row.get(documents.field)
        if isinstance(text, str) and text.strip():
            return self.encode(text)
        if documents.blank_lines:
            return []
        if documents.field not in row and (self.on_bad_row == "raise" or not documents.loose):
            raise UserError(
                f"{documents.name}, {place}: no field {documents.field!r}; the fields are {', '.join(row)}: name the "
                "column with data.columns"
            )
        kind = "no text" if text is None or not isinstance(text, str) else "empty text"
        problem = (
            f"{documents.name}, {place}: the field {documents.field!r} is {'empty' if kind == 'empty text' else kind}: "
            "mend or remove the row, or leave it out with data.on_bad_row=skip"
        )
        return self._leave_out(kind, problem, place, documents)

    def _leave_out(self, kind: str, problem: str, place: str, documents: Documents) -> list[int]:
        if self.on_bad_row == "raise":
            raise UserError(problem)
        if not self.skipped[kind]:
            report("%s, %s: left out, the first row of this pass with %s", documents.name, place, kind)
        self.skipped[kind] += 1
        return []


class BlockStream:
    """Endless blocks from sources with weights, shuffled within windows of ``buffer`` blocks.

    A window is filled in a fixed order, every source getting its share, and then shuffled by a generator seeded with
    (seed, window). The position is that of the window's beginning and the blocks of it that were taken.

    Args:
        sources: where blocks come from.
        weights: relative number of blocks of each.
        buffer: blocks of a window.
        seed: order of the blocks.
    """

    def __init__(self, sources: Sequence[BlockSource], *, weights: Sequence[float], buffer: int, seed: int) -> None:
        if buffer < 1:
            raise UserError(f"shuffle_buffer must be at least 1 block, not {buffer}")
        self.sources = sources
        self.shares = np.array(weights, dtype=float) / sum(weights)
        self.buffer = buffer
        self.seed = seed
        self._drawn = np.zeros(len(sources), dtype=int)
        self._window = -1
        self._start: dict[str, Any] = {}
        self._blocks: list[np.ndarray[Any, Any]] = []
        self._taken = 0

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next blocks, as rows of ``input_ids`` and ``prompt_length``."""
        rows = []
        for _ in range(count):
            if self._taken == len(self._blocks):
                self._fill()
            rows.append({"input_ids": self._blocks[self._taken], "prompt_length": 1})
            self._taken += 1
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and texts: the window, its beginning and what was taken of it."""
        return {"window": self._window, "taken": self._taken, **self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Errors:
            CheckpointError: the stream has other sources now.
        """
        if state["window"] < 0:
            return
        if len(state["sources"]) != len(self.sources):
            raise CheckpointError(
                f"The checkpoint's stream of text has {len(state['sources'])} sources and this one "
                f"{len(self.sources)}: give the sources of the first start"
            )
        for source, position in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(position)
        self._drawn = np.array(state["drawn"], dtype=int)
        self._window = state["window"] - 1
        self._fill()
        self._taken = state["taken"]

    def _fill(self) -> None:
        self._window += 1
        self._start = {"sources": [source.state_dict() for source in self.sources], "drawn": self._drawn.tolist()}
        blocks = []
        for _ in range(self.buffer):
            behind = self.shares * (self._drawn.sum() + 1) - self._drawn
            chosen = int(behind.argmax())
            self._drawn[chosen] += 1
            blocks.append(next(self.sources[chosen]))
        order = permutation(self.buffer, seed=self.seed, name=f"window {self._window}")
        self._blocks = [blocks[index] for index in order.tolist()]
        self._taken = 0
