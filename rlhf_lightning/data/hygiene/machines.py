"""Addresses of machines in a text: IPv4, IPv6 and MAC."""

from __future__ import annotations

import ipaddress
import re

# Every repetition is bounded or possessive, so that time is linear in the text.
FOUR = re.compile(r"(?<![\w.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?![\w]|\.\d)")
VERSION = re.compile(r"(?:version|release|build|section|chapter|\bv)[ .:]?$", re.IGNORECASE)
SIX = re.compile(r"(?<![\w:.])[23fF][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,40}+(?!\w)")
MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])")
# An expression that begins with a look-behind is tried at every character; these, which begin with characters that are
# found fast, say first whether that is worth while.
DOTTED = re.compile(r"\d\.\d{1,3}\.\d")
HEXTET = re.compile(r":(?<=[23fF][0-9A-Fa-f]{3}:)")
PAIR = re.compile(r"[:-](?<=[0-9A-Fa-f]{2}.)[0-9A-Fa-f]{2}[:-]")
GLOBAL_OR_LOCAL = re.compile(r"[23]|f[cd]|fe[89ab]", re.IGNORECASE)
"""How addresses of networks begin: global unicast, unique local, link-local."""


def has_ip_address(text: str) -> bool:
    """Whether ``text`` has an IPv4 or IPv6 address that can be a machine's own.

    Not counted: loopback, masks and multicast; four numbers of one digit each or after a word such as "version";
    what merely parses as IPv6, such as "1::2".
    """
    if DOTTED.search(text) and any(_is_four(match) for match in FOUR.finditer(text)):
        return True
    return HEXTET.search(text) is not None and any(_is_six(match[0]) for match in SIX.finditer(text))


def has_mac_address(text: str) -> bool:
    """Whether ``text`` has the address of a network card: six pairs of hexadecimal digits, not all 0 or all F.

    With hyphens at least one pair has a letter: six numbers with hyphens are a date and a time, or a lottery.
    """
    for match in MAC.finditer(text) if PAIR.search(text) else ():
        digits = set(match[0].lower()) - {match[1]}
        if digits not in ({"0"}, {"f"}) and (match[1] == ":" or not "".join(digits).isdigit()):
            return True
    return False


def _is_four(match: re.Match[str]) -> bool:
    parts = match.groups()
    if any(len(part) > 1 and part[0] == "0" for part in parts) or all(len(part) == 1 for part in parts):
        return False
    if max(map(int, parts)) > 255 or int(parts[0]) in (0, 127) or int(parts[0]) >= 224:
        return False
    return VERSION.search(match.string[max(0, match.start() - 9) : match.start()]) is None


def _is_six(found: str) -> bool:
    found = found.rstrip(":") if not found.endswith("::") else found
    try:
        ipaddress.IPv6Address(found)
    except ValueError:
        return False
    return GLOBAL_OR_LOCAL.match(found) is not None
