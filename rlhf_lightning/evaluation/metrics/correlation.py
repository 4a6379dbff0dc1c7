"""Agreement of a table of figures with another, such as the paper's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np


def correlation(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]) -> float:
    """Pearson's r over the cells of two tables with the same keys.

    Raises:
        ValueError: other keys in the one than in the other, fewer than three cells, or a table of equal values.
    """
    if ours.keys() != theirs.keys():
        apart = sorted(map(str, ours.keys() ^ theirs.keys()))
        raise ValueError(f"the tables differ in {len(apart)} cells, such as {apart[0]}")
    keys = list(ours)
    left, right = np.array([ours[key] for key in keys]), np.array([theirs[key] for key in keys])
    if len(keys) < 3 or not left.std() or not right.std():
        raise ValueError("a correlation needs at least three cells, and values that differ")
    return float(np.corrcoef(left, right)[0, 1])
