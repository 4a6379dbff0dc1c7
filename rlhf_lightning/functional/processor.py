"""What the processor of this machine can do."""

from __future__ import annotations

from typing import Any

import torch


def processor() -> dict[str, Any]:
    """What torch knows of it, such as ``cpu_name`` and ``avx512_bf16``; older versions know nothing."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask is not None else {}
