"""What the processor of this machine can do."""

from __future__ import annotations

import functools
from typing import Any

import torch


def processor() -> dict[str, Any]:
    """What torch knows of it, such as ``cpu_name`` and ``avx512_bf16``; older versions know nothing."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask is not None else {}


@functools.cache
def multiplies_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; true where it is not known."""
    known = processor()
    return known.get("architecture") != "x86_64" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))
