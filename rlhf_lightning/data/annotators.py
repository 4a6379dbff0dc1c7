"""Several annotators of one comparison, who may stand in rows of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.columns import Layout
from rlhf_lightning.data.dialogues import Prompt
from rlhf_lightning.data.faults import RowFault
from rlhf_lightning.data.rankings import Comparison

if TYPE_CHECKING:
    from datasets import Dataset

MERGED = "merged comparison"
"""Under which a row holds what all annotators of its completions said."""
ReadRow = Callable[[dict[str, Any]], tuple[Prompt, Comparison] | None]


class MergedVotes:
    """Rows of a file that compare the same completions of the same prompt become one row with all that was said.

    It does not matter in which order the completions stand, nor in which form the order is given. The file is read
    through when the first row is asked for, so that it costs nothing where the result is cached.

    Args:
        rows: the file.
        layout: how it is read.
        read: row under our names -> its prompt and comparison; None, or a ``RowFault``, for a row that is none.
    """

    def __init__(self, rows: Dataset, layout: Layout, *, read: ReadRow) -> None:
        self.rows = rows.select_columns(layout.columns)
        self.layout = layout
        self.read = read
        self._votes: dict[bytes, Comparison] | None = None
        self._first: dict[bytes, int] = {}

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any] | None:
        """The row with the votes of all rows like it if it is the first of them, else None."""
        if self._votes is None:
            self._votes = self._read()
        found = self._sorted(row)
        if found is None:  # what is wrong with it is its reader's business
            return row
        return {**row, MERGED: self._votes[found[0]]} if self._first[found[0]] == index else None

    def _read(self) -> dict[bytes, Comparison]:
        votes: dict[bytes, Comparison] = {}
        for index, entry in enumerate(self.rows):
            found = self._sorted(self.layout.read(entry))
            if found is None:
                continue
            key, said = found
            if key in votes:
                votes[key].pairs.extend(said.pairs)
                votes[key].ties.extend(said.ties)
            else:
                votes[key], self._first[key] = said, index
        return votes

    def _sorted(self, row: dict[str, Any]) -> tuple[bytes, Comparison] | None:
        """The comparison with its completions in an order of their own, and a key of prompt and completions."""
        try:
            found = self.read(row)
        except RowFault:
            return None
        if found is None:
            return None
        prompt, (responses, pairs, finished, ties) = found
        order = sorted(range(len(responses)), key=lambda i: (responses[i], finished[i]))
        place = {old: new for new, old in enumerate(order)}
        comparison = Comparison(
            [responses[i] for i in order],
            [(place[better], place[worse]) for better, worse in pairs],
            [finished[i] for i in order],
            [(place[one], place[other]) for one, other in ties],
        )
        whole = json.dumps([prompt, comparison.responses, comparison.finished])
        return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest(), comparison
