from __future__ import annotations

import random

import numpy as np
import torch

from rlhf_lightning.callbacks.random_state import capture_random_state, restore_random_state


def test_random_state_round_trip_with_a_cached_normal_draw() -> None:
    random.gauss(0, 1)
    np.random.randn()  # NumPy, too, makes two normal numbers and keeps one
    state = capture_random_state()
    expected = (random.gauss(0, 1), np.random.randn(), torch.randn(()).item())
    restore_random_state(state)
    assert (random.gauss(0, 1), np.random.randn(), torch.randn(()).item()) == expected
