from __future__ import annotations

import pytest

from rlhf_lightning.functional import constant_with_warmup, cosine_decay


def test_cosine_falls_from_one_to_the_floor() -> None:
    found = [cosine_decay(step, total=4, floor=0.1) for step in range(6)]
    # 0.1 + 0.9 · ½(1 + cos(π · progress)) at progress 0, ¼, ½, ¾, 1, and no further
    assert found == pytest.approx([1.0, 0.868198, 0.55, 0.231802, 0.1, 0.1], abs=1e-6)


def test_cosine_after_a_warm_up() -> None:
    found = [cosine_decay(step, total=5, floor=0.0, warmup=3) for step in range(6)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.0], abs=1e-6)


def test_cosine_over_a_single_step_is_finite() -> None:
    assert cosine_decay(0, total=1) == 1.0
    assert cosine_decay(0, total=0) == 1.0


def test_constant_after_a_warm_up_from_a_tenth() -> None:
    found = [constant_with_warmup(step, warmup=3, start=0.1) for step in range(5)]
    assert found == pytest.approx([0.1, 0.4, 0.7, 1.0, 1.0])
    assert constant_with_warmup(0, warmup=0) == 1.0
