"""Short answers against references: token F1 and exact match as in SQuAD, and the F1 of DROP."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def alternatives(reference: str) -> list[str]:
    """The references that a text names, joined by vertical bars as in OpenAI's released samples; empty ones are left
    out, unless there is no other."""
    return [part for part in reference.split("|") if part.strip()] or [""]


def best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    """The highest score of an answer over its references, ``max_r score(answer, r)``.

    Raises:
        ValueError: no references.
    """
    if not references:
        raise ValueError("an answer is compared with at least one reference")
    return max(score(answer, reference) for reference in references)


def normalized(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    kept = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def squad_exact(answer: str, reference: str) -> float:
    """1 where the normal forms of both are equal, else 0."""
    return float(normalized(answer) == normalized(reference))


def squad_f1(answer: str, reference: str) -> float:
    """``2 P R / (P + R)`` over the multiset of tokens of the normal forms, within 0 and 1.

    An empty text (SQuAD 2.0's "no answer") agrees with an empty text alone.
    """
    ours, theirs = normalized(answer).split(), normalized(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def drop_f1(answer: str, reference: str) -> float:
    """F1 of DROP by AllenNLP's rule for one span, within 0 and 1, rounded to two decimals (Dua et al. 2019).

    It differs from SQuAD's: tokens are sets, not multisets; a hyphen separates; numbers keep their punctuation and are
    compared by value (7,761 is no number here, 7761.0 equals 7761); and where the reference has numbers, an answer
    without one of them scores 0.
    """
    ours, theirs = _bag(answer), _bag(reference)
    numbers = {token for token in theirs if _is_number(token)}
    if numbers and not numbers & ours:
        return 0.0
    shared = len(ours & theirs)
    precision = shared / len(ours) if ours else 1.0
    recall = shared / len(theirs) if theirs else 1.0
    return round(2 * precision * recall / (precision + recall), 2) if precision + recall else 0.0


def drop_exact(answer: str, reference: str) -> float:
    """1 where the normal forms of DROP are equal, else 0."""
    return float(_tokens(answer) == _tokens(reference))


def _bag(text: str) -> set[str]:
    return set(" ".join(_tokens(text)).split())


def _tokens(text: str) -> list[str]:
    found = []
    for token in re.split(" |-", text.lower()):
        if not _is_number(token):
            token = "".join(letter for letter in token if letter not in _PUNCTUATION)
        if _is_number(token):
            token = str(float(token))
        token = " ".join(_ARTICLES.sub(" ", token).split())
        if token:
            found.append(token)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
