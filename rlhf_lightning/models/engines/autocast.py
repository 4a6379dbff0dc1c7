"""Autocast for a loop of many small passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def cached_casts(device_type: str) -> Iterator[None]:
    """Within it, where autocast is on, each trained weight is converted once instead of in every pass.

    Lightning switches that off for a whole training step, in which weights change; while a response is decoded they
    do not, and a step reads every weight for few tokens. The copies are gone behind it.
    """
    if not torch.is_autocast_enabled(device_type):
        yield
        return
    torch.clear_autocast_cache()
    try:
        with torch.autocast(device_type, dtype=torch.get_autocast_dtype(device_type), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()
