"""Duplicates by a long common prefix, in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.errors import UserError

DIGEST_BYTES = 16
"""Of a prefix. Two prefixes of a billion have the same digest with a probability under 1e-20."""


def deduplicate(texts: Iterable[str], *, min_common_prefix: int | None = None) -> NDArray[np.int64]:
    """Indices of the texts that stay: the first of every set of duplicates, in order.

    Two texts are duplicates if they are equal, or if their first ``min_common_prefix`` characters are. A text that is
    shorter than that is a duplicate of equal texts alone. "Alike in the first N characters" is an equivalence, so
    comparing with the first of each set is the same as comparing with every earlier text, and one lookup per text is
    enough: time is linear but for a sort of 16 bytes per text.

    Characters rather than tokens, so that what stays does not depend on a model. The paper drops prompts that "share
    a long common prefix" (section 3.2) and gives no length.

    Args:
        texts: n texts.
        min_common_prefix: characters; None drops equal texts only.

    Errors:
        UserError: a length below 1.
    """
    return first_of_each(prefix_digests(texts, min_common_prefix=min_common_prefix))


def prefix_digests(
    texts: Iterable[str], *, min_common_prefix: int | None = None, skip: Iterable[int] | None = None
) -> NDArray[np.uint64]:
    """A digest per text, equal for duplicates and for nothing else, [n, 2].

    Args:
        texts: n texts.
        min_common_prefix: see ``deduplicate``.
        skip: characters at the start of each text that must be equal too but do not count.
    """
    if min_common_prefix is None:
        prefixes = iter(texts)
    else:
        check_prefix(min_common_prefix)
        if skip is None:
            prefixes = (text[:min_common_prefix] for text in texts)
        else:
            prefixes = (text[: extra + min_common_prefix] for text, extra in zip(texts, skip, strict=True))
    # surrogatepass: JSON can hold half of a surrogate pair, which is no reason to fail here
    digests = b"".join(
        hashlib.blake2b(prefix.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        for prefix in prefixes
    )
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def first_of_each(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of the rows of ``digests`` [n, 2] that equal no earlier row, in order."""
    if not len(digests):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal rows the earliest comes first
    ordered = digests[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[first]).astype(np.int64)


def check_prefix(min_common_prefix: int) -> None:
    """A common prefix of no characters would make every text a duplicate of the first."""
    if min_common_prefix < 1:
        raise UserError(
            f"min_common_prefix must be at least 1 character, not {min_common_prefix}; null drops equal prompts only"
        )
