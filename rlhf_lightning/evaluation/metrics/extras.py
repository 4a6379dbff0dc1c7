"""Packages of the extra ``eval``, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from rlhf_lightning.errors import UserError


def require(module: str, package: str | None = None) -> Any:
    """A module of the extra ``eval``.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"this evaluation needs the package {package or module}: pip install rlhf-lightning[eval]"
        ) from error
