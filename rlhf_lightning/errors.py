"""The error that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: one line that names the value, the place and the way out.

    Console scripts print it without a traceback and exit with code 1; in a program of your own it is an
    ordinary ``ValueError``.
    """
