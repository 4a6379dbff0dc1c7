"""What the processor of this machine can do."""

from __future__ import annotations

from typing import Any

import torch

_answers: dict[str, bool] = {}


def processor() -> dict[str, Any]:
    """What torch knows of it, such as ``cpu_name`` and ``avx512_bf16``; older versions know nothing."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask is not None else {}


def multiplies_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; true where it is not known.

    ``torch.compile`` can read the answer where it has been given before, the question never.
    """
    if "bf16" not in _answers:
        known = processor()
        multiplies = known.get("avx512_bf16") or known.get("amx_bf16")
        _answers["bf16"] = known.get("architecture") != "x86_64" or bool(multiplies)
    return _answers["bf16"]
