"""A row that cannot be used, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lightning.errors import UserError

ON_BAD_ROW = ("raise", "skip")


class RowFault(UserError):
    """One row's fault. The reader of the file adds file and line, or counts the row under its reason.

    Args:
        reason: a word for the count: missing_or_null, wrong_type, empty_text, ranks, one_response, roles, template.
        problem: what is wrong with which value, and the way out.
    """

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def check_on_bad_row(choice: str) -> None:
    """Refuse anything but raise and skip."""
    if choice not in ON_BAD_ROW:
        raise UserError(f"on_bad_row must be raise or skip, not {choice!r}")


def text_of(row: Mapping[str, Any], field: str) -> str:
    """The field as text that is not blank.

    Errors:
        RowFault: missing_or_null, wrong_type or empty_text.
    """
    value = row.get(field)
    if value is None:
        present = ", ".join(name for name, entry in row.items() if entry is not None)
        raise RowFault(
            "missing_or_null", f"no field {field!r}; the fields are {present or 'none'}: mend or remove the row"
        )
    if not isinstance(value, str):
        raise RowFault(
            "wrong_type", f"the field {field!r} must be text, not {type(value).__name__}: mend or remove the row"
        )
    if not value.strip():
        raise RowFault("empty_text", f"the field {field!r} is empty: mend or remove the row")
    return value
