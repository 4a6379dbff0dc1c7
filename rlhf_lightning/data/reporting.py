"""What the data are reported to hold, once for all processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


@rank_zero_only
def report(message: str, *values: object) -> None:
    """Log a fact about the data; ``values`` go into the message as in ``logging``."""
    log.info(message, *values)


def tell(what: str, counts: Mapping[str, int]) -> None:
    """Log what a set of files gave, or lost."""
    report("%s: %s", what, ", ".join(f"{name} {count}" for name, count in counts.items()))
