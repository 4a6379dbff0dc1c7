"""The error that a user can mend, and other errors in its words."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: one line that names the value, the place and the way out.

    Console scripts print it without a traceback and exit with code 1; in a program of your own it is an
    ordinary ``ValueError``.
    """


class CheckpointError(UserError):
    """A checkpoint that does not belong to the run that is to go on from it. Entry points add the file's name."""


def one_line(error: BaseException, *, most: int | None = 200) -> str:
    """An error's text for a message of one line, at most ``most`` letters of it; the kind of error if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
