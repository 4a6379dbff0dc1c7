"""Learning-rate multipliers as functions of the step."""

from __future__ import annotations

import math


def cosine_decay(step: int, *, total: int, floor: float = 0.1, warmup: int = 0) -> float:
    """Cosine from 1 to ``floor`` after a linear warm-up: ``floor + (1 − floor)·½(1 + cos(π·progress))``.

    The paper decays to 10 % without warm-up (InstructGPT, appendix C.1, C.2).

    Args:
        step: optimizer steps already taken, from 0.
        total: steps of the whole run; later steps stay at ``floor``.
        warmup: steps over which the multiplier rises linearly to 1.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def constant_with_warmup(step: int, *, warmup: int = 10, start: float = 0.1) -> float:
    """Linear from ``start`` to 1 over ``warmup`` steps, then 1.

    PPO warms up over 10 iterations from a tenth of the rate (InstructGPT, appendix C.4).
    """
    return 1.0 if step >= warmup else start + (1.0 - start) * step / warmup
