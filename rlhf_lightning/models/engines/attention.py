"""The attention that a model decodes with, which may be another than it is trained with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rlhf_lightning.errors import UserError


@contextlib.contextmanager
def attending(model: Any, implementation: str | None = None) -> Iterator[None]:
    """Within it a transformers model attends with ``implementation`` (``None``: as it does), and behind it as before,
    also after an exception, and whatever has changed it inside.

    Raises:
        UserError: the model or this machine does not have it.
    """
    before = model.config._attn_implementation
    try:
        if implementation is not None:
            _choose(model, implementation)
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)


def _choose(model: Any, implementation: str) -> None:
    reason = "its attention cannot be changed once it is made"
    try:
        model.set_attn_implementation(implementation)
    except (ValueError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
    if model.config._attn_implementation != implementation:
        raise UserError(
            f"rollout.engine.attn_implementation={implementation}: {type(model).__name__} does not have it here "
            f"({reason}); set it to eager or sdpa, or to null"
        )
