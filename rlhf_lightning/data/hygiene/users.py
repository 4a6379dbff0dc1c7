"""Rows by user: how many of each, and which split."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.errors import UserError

User = str | int | float | None
"""Who wrote a row; None, NaN and empty text mean that nobody is named."""


def user_key(user: User) -> str | None:
    """A user as text, the same for 7 and "7"; None where nobody is named."""
    if user is None or user == "" or (isinstance(user, float) and math.isnan(user)):
        return None
    if isinstance(user, float) and user.is_integer():  # what a reader makes of whole numbers beside missing ones
        return str(int(user))
    return str(user)


def at_most_per_user(users: Sequence[User], *, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of the rows that stay when a user has at most ``limit`` of them, in order (paper: 200, section 3.2).

    Which rows of a user stay is drawn by ``seed``: the first ones would be the ones that the user began with.
    Rows without a user count each as a user of their own.

    Args:
        users: [n].
        limit: rows per user.
        seed: of the draw.

    Errors:
        UserError: a limit below 1.
    """
    check_limit(limit)
    seen: Counter[str] = Counter()
    keep = np.zeros(len(users), dtype=bool)
    for index in np.random.default_rng(seed).permutation(len(users)).tolist():
        key = user_key(users[index])
        if key is not None:
            seen[key] += 1
        keep[index] = key is None or seen[key] <= limit
    return np.flatnonzero(keep).astype(np.int64)


def split_by_user(
    users: Sequence[User], *, fractions: Sequence[float], seed: int = 0, anonymous: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """The number of each row's split, [n]; all rows of a user have the same (paper: section 3.2).

    A user's place is a hash of its name and the seed, nothing else: rows that are added or left out later move nobody.
    The fractions are therefore met in expectation, over users and not over rows.

    Args:
        users: [n].
        fractions: how likely a user is to be in split 0, 1, ...; they add up to 1.
        seed: another seed, another split.
        anonymous: [n], what stands for the user of a row that names none; by default the number of the row.

    Errors:
        UserError: fractions below 0 or that do not add up to 1.
    """
    if not fractions or min(fractions) < 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise UserError(f"The fractions of a split must be at least 0 and add up to 1, not {list(fractions)}")
    bounds = np.cumsum(np.asarray(fractions, dtype=np.float64))[:-1]
    places = np.empty(len(users), dtype=np.float64)
    known: dict[str, float] = {}
    for index, user in enumerate(users):
        key = user_key(user)
        if key is None:
            places[index] = _place(f"row {index}" if anonymous is None else f"row {anonymous[index]}", seed)
        elif key in known:
            places[index] = known[key]
        else:
            places[index] = known[key] = _place(f"user {key}", seed)
    return np.searchsorted(bounds, places, side="right").astype(np.int64)


def check_limit(limit: int) -> None:
    """No row of any user would leave nothing to train on."""
    if limit < 1:
        raise UserError(f"max_per_user must be at least 1, not {limit}; null sets no limit")


def _place(name: str, seed: int) -> float:
    """A number in [0, 1), uniform over names."""
    digest = hashlib.blake2b(f"{seed}\n{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # the 53 bits that a float holds, so that it stays below 1
