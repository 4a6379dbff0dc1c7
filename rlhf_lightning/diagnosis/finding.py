"""What a check found."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.errors import UserError, one_line

log = logging.getLogger(__name__)

Result = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table.

    Args:
        check: what was looked at.
        result: ``pass``, ``fail``, or ``skip`` where there was nothing to look at.
        found: what was seen, with figures.
        advice: what to do about it; empty where there is nothing to do.
    """

    check: str
    result: Result
    found: str
    advice: str = ""


class CheckFailed(Exception):
    """Raised by a check with what it found and what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found = found
        self.advice = advice


class NothingToCheck(Exception):
    """Raised by a check that does not apply, with the reason."""


def examine(name: str, check: Callable[[], str]) -> Finding:
    """Run one check; whatever it raises is its own finding and does not hide the others.

    Args:
        name: of the check.
        check: returns what it saw, or raises :class:`CheckFailed`, :class:`NothingToCheck` or any error.
    """
    try:
        return Finding(check=name, result="pass", found=check())
    except NothingToCheck as reason:
        return Finding(check=name, result="skip", found=str(reason))
    except CheckFailed as failure:
        return Finding(check=name, result="fail", found=failure.found, advice=failure.advice)
    except UserError as error:  # says itself what to do
        return Finding(check=name, result="fail", found=one_line(error, most=None))
    except Exception as error:  # a bug in a model's own code must not hide the other findings
        log.debug("%s", name, exc_info=True)
        return Finding(
            check=name,
            result="fail",
            found=f"{type(error).__name__}: {one_line(error)}",
            advice="this is no mistake that is known here: hydra.verbose=true shows where it was raised",
        )
