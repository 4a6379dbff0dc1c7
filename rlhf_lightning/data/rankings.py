"""What one row of a comparisons file says about the order of its completions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_lightning.data.collate import pairs_from_ranks
from rlhf_lightning.data.faults import RowFault
from rlhf_lightning.errors import UserError

ANNOTATORS = ("majority", "each")
Votes = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""(better, worse) pairs, and pairs held equal."""


class Comparison(NamedTuple):
    """K completions of a prompt and what is known of their order."""

    responses: list[str]
    pairs: list[tuple[int, int]]
    """(better, worse) indices."""
    finished: list[bool]
    """Whether a completion came to its end (it gets an EOS)."""
    ties: list[tuple[int, int]]
    """Pairs that the labeler saw and held equal."""

    @property
    def tied(self) -> int:
        """Number of ties."""
        return len(self.ties)


def read_comparison(row: Mapping[str, Any], place: str, *, annotators: str = "each") -> Comparison:
    """The comparison in a row, in any of its forms.

    - ``responses`` and ``ranks`` (1 is best, equal ranks are a tie);
    - ``responses`` and ``scores`` (higher is better, equal scores are a tie; true and false are 1 and 0);
    - ``responses`` and ``pairs`` of [better, worse] indices, for partial orders;
    - ``responses`` and ``preference``, the number of the best from 1, or ``choice``, its index from 0;
    - ``output_1``, ``output_2`` and ``preference``, 1 or 2 (0 and 1.5 are a tie);
    - ``baseline``, ``responses`` and ``preferences``, one per response: 1 for the baseline, 2 for the response;
    - ``chosen`` and ``rejected``.

    A list as ``preference`` or ``choice`` has one entry per annotator. ``finished`` (K booleans, all true by default)
    goes with any form.

    An empty completion is a fault, except in a row with ``finished``: those are samples, and a model may say nothing.

    Args:
        row: the row, under our names.
        place: file and row, for errors.
        annotators: "majority" makes one pair of two completions out of all annotators, a tie where they are even;
            "each" gives a pair for every annotator.

    Errors:
        UserError: fewer than two completions, or fields that do not fit together; names ``place``.
    """
    try:
        return compare(row, annotators=annotators)
    except RowFault as fault:
        raise UserError(f"{place}: {fault}") from fault


def compare(row: Mapping[str, Any], *, annotators: str = "each") -> Comparison:
    """``read_comparison`` without a place: raises ``RowFault``."""
    responses = _responses(row)
    k = len(responses)
    if k < 2:
        raise RowFault("one_response", f"K = {k} completions cannot be compared: give at least 2 or remove the row")
    finished: Any = row.get("finished")
    if finished is None:
        finished = [True] * k
    if not isinstance(finished, list) or len(finished) != k or not all(isinstance(f, bool) for f in finished):
        raise RowFault("finished", f"finished must be {k} booleans, one per response: mend the row")
    if row.get("responses") is None and row.get("output_1") is None:
        return Comparison(responses, [(0, 1)], finished, [])
    given = [name for name in _READERS if row.get(name) is not None]
    if len(given) != 1:
        what = " and ".join(["both " + given[0], *given[1:]]) if given else f"neither {' nor '.join(_READERS)}"
        raise RowFault(
            "ranks", f"{what} beside the responses: give one of them (data.columns={{name: null}} hides a column)"
        )
    pairs, ties = _READERS[given[0]](row[given[0]], k)
    comparison = Comparison(responses, pairs, finished, ties)
    return by_majority(comparison) if annotators == "majority" else comparison


def by_majority(comparison: Comparison) -> Comparison:
    """One pair where more annotators hold one way than the other, a tie where they are even."""
    pairs, ties = comparison.pairs, comparison.ties
    seen = dict.fromkeys((min(pair), max(pair)) for pair in [*pairs, *ties])
    balance = Counter(dict.fromkeys(seen, 0))
    for better, worse in pairs:
        balance[min(better, worse), max(better, worse)] += 1 if better < worse else -1
    decided = [pair if count > 0 else pair[::-1] for pair, count in balance.items() if count]
    return comparison._replace(pairs=decided, ties=[pair for pair, count in balance.items() if not count])


def _responses(row: Mapping[str, Any]) -> list[str]:
    responses: Any = row.get("responses")
    if responses is not None and row.get("baseline") is not None:
        responses = [row["baseline"], *responses] if isinstance(responses, list) else None
    elif responses is None:
        for two in (("output_1", "output_2"), ("chosen", "rejected")):
            if any(row.get(name) is not None for name in two):
                responses = [row.get(name) for name in two]
                break
        else:
            present = ", ".join(name for name, value in row.items() if value is not None)
            raise RowFault(
                "missing_or_null",
                f"no completions; the fields are {present}: give responses with ranks or pairs, or chosen and rejected",
            )
    if not isinstance(responses, list) or not all(isinstance(response, str) for response in responses):
        missing = isinstance(responses, list) and any(response is None for response in responses)
        raise RowFault(
            "missing_or_null" if missing else "wrong_type",
            "every completion must be text (chosen and rejected, or a list of responses): mend the row",
        )
    empty = [number for number, response in enumerate(responses, 1) if not response.strip()]
    if empty and row.get("finished") is None:
        raise RowFault("empty_text", f"completion {empty[0]} of {len(responses)} is empty: mend or remove the row")
    return responses


def _by_ranks(ranks: Any, k: int) -> Votes:
    if not isinstance(ranks, list) or len(ranks) != k or not all(_is_number(rank) for rank in ranks):
        raise RowFault("ranks", f"ranks must be {k} numbers, one per response, not {ranks}: mend the row")
    return _ordered(ranks)


def _by_scores(scores: Any, k: int) -> Votes:
    numbers = [_number(score) for score in scores] if isinstance(scores, list) else []
    if len(numbers) != k or None in numbers:
        raise RowFault("ranks", f"scores must be {k} numbers, one per response, not {scores}: mend the row")
    return _ordered([-number for number in numbers if number is not None])


def _by_pairs(pairs: Any, k: int) -> Votes:
    if not isinstance(pairs, list) or not all(_is_pair(pair, k) for pair in pairs):
        raise RowFault(
            "ranks", f"every pair must be two different indices [better, worse] from 0 to {k - 1}: mend the row"
        )
    return [(pair[0], pair[1]) for pair in pairs], []


def _by_preference(preference: Any, k: int) -> Votes:
    pairs: list[tuple[int, int]] = []
    ties: list[tuple[int, int]] = []
    for vote in preference if isinstance(preference, list) else [preference]:
        number = _number(vote)
        if k == 2 and number in (0, 1.5):
            ties.append((0, 1))
        elif number is None or not number.is_integer() or not 1 <= number <= k:
            raise RowFault(
                "ranks", f"preference must be the number of the best response from 1 to {k}, not {vote!r}: mend the row"
            )
        else:
            best = int(number) - 1
            pairs += [(best, other) for other in range(k) if other != best]
    return pairs, ties


def _by_choice(choice: Any, k: int) -> Votes:
    votes = [_number(vote) for vote in (choice if isinstance(choice, list) else [choice])]
    if any(vote is None or not vote.is_integer() or not 0 <= vote < k for vote in votes):
        raise RowFault(
            "ranks", f"choice must be the index of the best response from 0 to {k - 1}, not {choice!r}: mend the row"
        )
    return _by_preference([vote + 1 for vote in votes if vote is not None], k)


def _by_preferences(preferences: Any, k: int) -> Votes:
    if not isinstance(preferences, list) or len(preferences) != k - 1:
        raise RowFault(
            "ranks", f"preferences must be {k - 1} numbers, one per response, not {preferences}: mend the row"
        )
    pairs: list[tuple[int, int]] = []
    ties: list[tuple[int, int]] = []
    for response, vote in enumerate(preferences, 1):
        found, even = _by_preference(vote, 2)
        pairs += [(0, response) if pair == (0, 1) else (response, 0) for pair in found]
        ties += [(0, response)] * len(even)
    return pairs, ties


_READERS: dict[str, Callable[[Any, int], Votes]] = {
    "ranks": _by_ranks,
    "pairs": _by_pairs,
    "scores": _by_scores,
    "preference": _by_preference,
    "choice": _by_choice,
    "preferences": _by_preferences,
}


def _ordered(ranks: Sequence[float]) -> Votes:
    equal = [(i, j) for j in range(len(ranks)) for i in range(j) if ranks[i] == ranks[j]]
    return pairs_from_ranks(ranks), equal


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_pair(pair: Any, k: int) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(i, int) for i in pair):
        return False
    return pair[0] != pair[1] and all(0 <= i < k for i in pair)
