"""Sequences that do not fit into a model's context, found before training."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import context_length


def check_context(model: nn.Module | None, data: Any, *, new_tokens: int = 0, key: str = "max_length") -> None:
    """Refuse data whose longest row, with ``new_tokens`` more, is longer than the model's context: learned positions
    would run out in the middle of an epoch, others would be read where they were never trained.

    Args:
        model: a transformers model; one that states no context takes any length.
        data: the data module, set up; one of a user's own without rows with lengths is left alone.
        new_tokens: tokens to be generated behind a row.
        key: the data module's argument that limits the length.

    Raises:
        UserError: names file, line, length and context.
    """
    context = context_length(model)
    if context is None:
        return
    room = context - new_tokens
    for name in ("block_size", "text_block"):
        block = getattr(data, name, None)
        if isinstance(block, int) and block > context and (name == "block_size" or getattr(data, "text", None)):
            raise UserError(f"data.{name}={block} is more than the model's context of {context}; lower it")
    ways_out = f"set data.{key}={room} and data.overlong=drop" if room > 0 else "lower module.max_new_tokens"
    generated = f" with {new_tokens} new tokens" if new_tokens else ""
    for split in ("train", "validation", "demonstrations"):
        rows: Any = getattr(data, f"{'demonstration' if split == 'demonstrations' else split}_rows", None)
        found = longest(rows)
        if found is not None and found[1] > room:
            row, length = found
            provenance = getattr(data, "provenance", {}).get(split)
            place = f"{getattr(data, split)}, row {row + 1}" if provenance is None else provenance.place(row)
            raise UserError(
                f"{place} has {length} tokens, which{generated} is more than the model's context of {context}; "
                f"{ways_out}"
            )


def longest(rows: Any) -> tuple[int, int] | None:
    """The row with the most tokens and their number, of a table or a mixture of tables; None without lengths."""
    best, before = (0, -1), 0
    for table in getattr(rows, "tables", [rows]):
        block = getattr(table, "block_size", None)  # of pretraining text beside demonstrations
        if isinstance(block, int):
            if block > best[1]:
                best = before, block
            before += len(table)
            continue
        if "length" not in getattr(table, "column_names", ()):
            return None
        # Of the rows in use, not of the table beneath, which still holds the rows that were dropped; as an array,
        # because a list of a million rows takes a minute.
        lengths = table.select_columns("length").with_format("arrow")[:].column("length").to_numpy()
        row = int(lengths.argmax())
        if lengths[row] > best[1]:
            best = before + row, int(lengths[row])
        before += len(lengths)
    return best
