"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Any

from rlhf_lightning.errors import UserError

UNITS = {"": 1.0, "B": 1.0}
UNITS |= {f"{letter}B": 1000.0**power for power, letter in enumerate("KMGT", start=1)}
UNITS |= {f"{letter}iB": 1024.0**power for power, letter in enumerate("KMGT", start=1)}


def parse_bytes(value: Any, *, key: str) -> float:
    """``80GB`` (10⁹ each), ``80GiB`` (2³⁰ each) or a number of bytes.

    Args:
        value: what was given.
        key: where.

    Raises:
        UserError: anything else, and what is not positive.
    """
    found = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z]*)", str(value).strip())
    try:
        number = float(found[1]) * UNITS[found[2]] if found else 0.0
    except (ValueError, KeyError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise UserError(f"{key}={value} is no size; write it as {key}=80GB, {key}=80GiB or a number of bytes")
    return number
