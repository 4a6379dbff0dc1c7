"""The global sources of randomness of this process, in a form that any checkpoint can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture_random_state() -> dict[str, Any]:
    """States of ``random``, NumPy, and torch on the CPU and every CUDA device; plain values and tensors only, so that
    a checkpoint still loads with ``weights_only=True``."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on from what :func:`capture_random_state` saw. CUDA states are taken back where there are as many devices."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, mt_keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(mt_keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])
