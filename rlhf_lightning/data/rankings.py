"""What one row of a comparisons file says about the order of its completions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_lightning.data.collate import pairs_from_ranks
from rlhf_lightning.errors import UserError


class Comparison(NamedTuple):
    """K completions of a prompt and what is known of their order."""

    responses: list[str]
    pairs: list[tuple[int, int]]
    """(better, worse) indices."""
    finished: list[bool]
    """Whether a completion came to its end (it gets an EOS)."""
    tied: int
    """Pairs that the labeler saw and held equal."""


def read_comparison(row: Mapping[str, Any], place: str) -> Comparison:
    """The comparison in a row, in any of its three forms.

    - ``responses`` and ``ranks`` (1 is best, equal ranks are a tie);
    - ``responses`` and ``pairs`` of [better, worse] indices, for partial orders;
    - ``chosen`` and ``rejected``.

    ``finished`` (K booleans, all true by default) goes with any of them.

    Errors:
        UserError: fewer than two completions, or fields that do not fit together; names ``place``.
    """
    responses: Any = row.get("responses")
    ranks: Any = row.get("ranks")
    pairs: Any = row.get("pairs")
    finished: Any = row.get("finished")
    if responses is None and (row.get("chosen") is not None or row.get("rejected") is not None):
        responses, pairs, ranks = [row.get("chosen"), row.get("rejected")], [[0, 1]], None
    if responses is None:
        present = ", ".join(name for name, value in row.items() if value is not None)
        raise UserError(
            f"{place}: no completions; the fields are {present}: "
            "give responses with ranks or pairs, or chosen and rejected"
        )
    if not isinstance(responses, list) or not all(isinstance(response, str) for response in responses):
        raise UserError(
            f"{place}: every completion must be text (chosen and rejected, or a list of responses): mend the row"
        )
    k = len(responses)
    if k < 2:
        raise UserError(f"{place}: K = {k} completions cannot be compared: give at least 2 or remove the row")
    if finished is None:
        finished = [True] * k
    if not isinstance(finished, list) or len(finished) != k or not all(isinstance(f, bool) for f in finished):
        raise UserError(f"{place}: finished must be {k} booleans, one per response: mend the row")
    if (ranks is None) == (pairs is None):
        what = "neither ranks nor pairs" if ranks is None else "both ranks and pairs"
        raise UserError(f"{place}: {what} beside the responses: give one of them")
    if pairs is not None:
        if not isinstance(pairs, list) or not all(_is_pair(pair, k) for pair in pairs):
            raise UserError(
                f"{place}: every pair must be two different indices [better, worse] from 0 to {k - 1}: mend the row"
            )
        return Comparison(responses, [(pair[0], pair[1]) for pair in pairs], finished, 0)
    if not isinstance(ranks, list) or len(ranks) != k or not all(_is_number(rank) for rank in ranks):
        raise UserError(f"{place}: ranks must be {k} numbers, one per response, not {ranks}: mend the row")
    decided = pairs_from_ranks(ranks)
    return Comparison(responses, decided, finished, k * (k - 1) // 2 - len(decided))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_pair(pair: Any, k: int) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(i, int) for i in pair):
        return False
    return pair[0] != pair[1] and all(0 <= i < k for i in pair)
