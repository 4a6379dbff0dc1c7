"""Whether a user's data can be read by a user's model."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhf_lightning.diagnosis.finding import CheckFailed, NothingToCheck


def rows_fit(data: Any, *, context: int | None, new_tokens: int = 0) -> str:
    """The rows encode, and fit the context with a response behind them where they are prompts.

    Args:
        data: a data module; ``None`` where there is none.
        context: of the model; ``None`` where it has no limit or is not known.
        new_tokens: that are generated behind a prompt.
    """
    if data is None:
        raise NothingToCheck("no data; data=demonstrations data.train=FILE names some")
    data.setup("fit")
    rows = data.train_rows
    count = f"{len(rows):,} rows" if hasattr(rows, "__len__") else "a stream"
    lengths = lengths_of(rows)
    if lengths is None:
        block = getattr(data, "block_size", 0)
        if context is not None and block > context:
            raise CheckFailed(
                f"data.block_size={block} is over the context of {context}", f"set data.block_size={context}"
            )
        return f"{count} of {block} tokens" if block else count
    room = None if context is None else context - new_tokens
    spread = f"{count} of {lengths.min()} to {lengths.max()} tokens (median {int(np.median(lengths))})"
    long = 0 if room is None else int((lengths > room).sum())
    limit = "" if context is None else f", context {context}" + (f" less {new_tokens} new tokens" if new_tokens else "")
    if long:
        key = "max_prompt_length" if new_tokens else "max_length"
        raise CheckFailed(
            f"{spread}{limit}: {long / len(lengths):.1%} are too long",
            f"set data.{key}={room} and data.overlong=drop (or keep_start, keep_end), or lower module.max_new_tokens",
        )
    lost = {
        name: number for name, number in data.counts.items() if name.startswith(("overlong_", "skipped_")) and number
    }
    all_rows = len(lengths) + sum(number for name, number in lost.items() if name != "overlong_rows_cut")
    told = [f"{name.replace('_', ' ')} {number:,} ({number / all_rows:.1%})" for name, number in lost.items()]
    return f"{spread}{limit}; {', '.join(told) or 'none truncated or left out'}"


def lengths_of(rows: Any) -> np.ndarray[Any, Any] | None:
    """Tokens of every row of a table or of a mixture of tables; None where rows have no lengths."""
    parts = []
    for table in getattr(rows, "tables", [rows]):
        if "length" not in getattr(table, "column_names", ()):
            return None
        parts.append(table.select_columns("length").with_format("arrow")[:].column("length").to_numpy())
    return np.concatenate(parts)
