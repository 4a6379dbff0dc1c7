"""Prompt hygiene over the tables of several sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_lightning.data.hygiene.prompt_hygiene import CHUNK, Cleaned, PromptHygiene

if TYPE_CHECKING:
    from datasets import Dataset


def clean_tables(
    tables: Sequence[Dataset], hygiene: PromptHygiene
) -> tuple[list[Dataset], list[Dataset] | None, dict[str, int], Cleaned]:
    """The rows of each table to train on, those that are held out (None without a split), the counts, and which
    rows of all tables these are.

    The tables are one set of prompts: a duplicate is dropped wherever the first one stands, and a user's prompts count
    together. Earlier tables come first.

    Args:
        tables: columns ``prompt``, ``messages`` (a conversation, or empty) and ``user`` ("" if unknown).
        hygiene: the steps.

    Errors:
        UserError: see ``PromptHygiene.clean``.
    """
    cleaned = hygiene.clean(_prompts(tables), _users(tables))
    counts = {f"{step}_rows_dropped": count for step, count in cleaned.dropped.items()}
    counts |= {f"personal_data_{kind}": count for kind, count in cleaned.personal_data.items()}
    if not hygiene.validation_fraction:
        return _selected(tables, cleaned.train), None, counts, cleaned
    counts["held_out_rows"] = len(cleaned.validation)
    return _selected(tables, cleaned.train), _selected(tables, cleaned.validation), counts, cleaned


def _prompts(tables: Sequence[Dataset]) -> Iterator[Any]:
    for table in tables:
        for batch in table.select_columns(["prompt", "messages"]).iter(batch_size=CHUNK):
            yield from (messages or prompt for prompt, messages in zip(batch["prompt"], batch["messages"], strict=True))


def _users(tables: Sequence[Dataset]) -> Iterator[str]:
    for table in tables:
        for batch in table.select_columns("user").iter(batch_size=CHUNK):
            yield from batch["user"]


def _selected(tables: Sequence[Dataset], indices: np.typing.NDArray[np.int64]) -> list[Dataset]:
    """The rows of each table at the places that ``indices``, in order, have in all of them."""
    ends = np.cumsum([len(table) for table in tables])
    parts = np.split(indices, np.searchsorted(indices, ends[:-1]))
    return [table.select(part - (end - len(table))) for table, part, end in zip(tables, parts, ends, strict=True)]
