"""transformers without its own progress bars and load reports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers.utils import logging

hf_logging: Any = logging  # its functions carry no types


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence what transformers prints while it loads or saves: missing weights are our errors, and a new head is
    what was asked for."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
