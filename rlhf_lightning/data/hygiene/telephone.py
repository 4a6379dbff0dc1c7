"""Telephone numbers in a text."""

from __future__ import annotations

import re
from itertools import pairwise

# Every repetition is bounded, so that time is linear in the text.
WITH_COUNTRY = re.compile(r"(?<![\w+])(?:\+|(?<!\d[ .\-/])00(?=[1-9]))[ ]?[1-9](?:[ ().\-/]{0,2}\d){6,14}(?!\d)")
"""+44 20 7946 0958, +1 (555) 123-4567, 0049 30 901820"""
THREE_THREE_FOUR = re.compile(
    r"(?<![\w+])(?<!\d[.\-/])(?:1[ .-])?"
    r"(?:\([1-9]\d\d\)[ .-]?\d{3}[ .-]?|[1-9]\d\d-\d{3}[- ]|[1-9]\d\d\.\d{3}\.|[1-9]\d\d[ ]\d{3}-)\d{4}"
    r"(?!\w|[.\-/]\d)"
)
"""555-123-4567, (555) 123 4567, 555.123.4567, 1-800-555-0199"""
WITH_TRUNK = re.compile(r"(?<![\w+.])(?<!\d[ .\-/])\(?0[1-9](?:[ ()./-]{0,2}\d){7,10}(?![.\-/]?\w)")
"""020 7946 0958, 07700 900123, 06 12 34 56 78, 030/901820"""
ANNOUNCED = re.compile(
    r"\b(?:tele)?(?:phone|fax)\b|\btel\b|\bmobile\b|\bcell\b|\bwhatsapp\b|\bcall (?:me|us|him|her|them)\b",
    re.IGNORECASE,
)
NUMBER_THEN = re.compile(
    r"(?:\W{0,3}(?:number|no|nr|is|at|on)\b){0,3}\W{0,3}(?<![\d.,$€£])((?:\d[ .-]?){6,14}\d)(?![.,]?\d|\w)",
    re.IGNORECASE,
)
"""What follows such a word: "phone number is 5550199"; read only there, because any whole number looks like it."""
DATE = re.compile(r"(?:\d{1,2}[./ -]\d{1,2}[./ -]\d{4}|\d{4}[./ -]\d{1,2}[./ -]\d{1,2})(?!\d)")
PAIRS = re.compile(r"\d\d(?:\D\d\d)+")


def has_telephone_number(text: str) -> bool:
    """Whether ``text`` has a telephone number.

    A number counts by its form: a country's code, the groups of 3, 3 and 4 digits of North America, or a leading zero
    and groups; or because a word such as "phone" stands before it. Dates, decimals and whole numbers without groups
    do not have that form.
    """
    if any(_with_country(match[0]) for match in WITH_COUNTRY.finditer(text)) or THREE_THREE_FOUR.search(text):
        return True
    if any(_is_number(match[0]) and _is_grouped(match) for match in WITH_TRUNK.finditer(text)):
        return True
    for word in ANNOUNCED.finditer(text):
        found = NUMBER_THEN.match(text, word.end())
        if found and _is_number(found[1]):
            return True
    return False


def _with_country(found: str) -> bool:
    return not _is_decimal(found.strip("+ ")) and not found.isdigit()


def _is_number(found: str) -> bool:
    return not _is_decimal(found) and not DATE.match(found.strip("( ")) and not set(found) <= set("01 ")


def _is_decimal(found: str) -> bool:
    return found.count(".") == 1 and found.replace(".", "").isdigit()


def _is_grouped(match: re.Match[str]) -> bool:
    """The digits are in groups, and these are no list of small numbers such as 01 02 03 04 05."""
    found = match[0].strip("( ")
    if not PAIRS.fullmatch(found):
        return not found.isdigit()
    pairs = [int(pair) for pair in re.findall(r"\d\d", found)]
    steps = {later - earlier for earlier, later in pairwise(pairs)}
    goes_on = re.match(r"[ ,]+\d", match.string[match.end() : match.end() + 4])
    return len(pairs) == 5 and len(steps) > 1 and not goes_on
