"""Every term by hand, on a model of round numbers."""

from __future__ import annotations

import dataclasses

import pytest

from rlhf_lightning.planning import (
    ModelSize,
    activation_bytes,
    cache_bytes,
    gigabytes,
    gradient_bytes,
    layer_bytes,
    logits_bytes,
    optimizer_bytes,
)

# Two layers of width 8, a vocabulary of 100; 1,000 numbers in float32, of which 600 are hidden matrices.
SIZE = ModelSize(
    parameters=1_000,
    weight_bytes=4_000,
    trained=1_000,
    trained_bytes=4_000,
    matrices=600,
    largest_bytes=400,
    layers=2,
    width=8,
    vocabulary=100,
    cache_width=16,
    kept_bytes=200,
)


def test_a_gradient_has_the_type_of_its_weight() -> None:
    assert gradient_bytes(SIZE) == 4_000
    assert gradient_bytes(dataclasses.replace(SIZE, trained_bytes=2_000)) == 2_000


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("none", 0),
        ("adamw", 8_000),  # two moments of 4 bytes
        ("adamw8bit", 2_000 + 2 * 4 * 1_000 / 256),  # two moments of 1 byte, and a scale for each 256 numbers
        ("muon", 600 * 4 + 400 * 8),  # one momentum for matrices, two moments for the rest
    ],
)
def test_optimizer_state(optimizer: str, expected: float) -> None:
    assert optimizer_bytes(SIZE, optimizer) == pytest.approx(expected)  # type: ignore[arg-type]  # the choices of Optimizer


def test_nothing_trains_nothing_kept() -> None:
    idle = dataclasses.replace(SIZE, trained=0, trained_bytes=0.0, matrices=0)
    for optimizer in ("adamw", "adamw8bit", "muon"):
        assert optimizer_bytes(idle, optimizer) == 0  # type: ignore[arg-type]  # the choices of Optimizer


def test_activations_grow_with_tokens_and_scores_with_their_square() -> None:
    assert activation_bytes(SIZE, 3, 10) == 3 * 10 * 200
    assert layer_bytes(SIZE, 3, 10) == 3 * 10 * 200 / 2
    eager = dataclasses.replace(SIZE, score_bytes=4, fixed_bytes=50)
    assert activation_bytes(eager, 3, 10) == 3 * 10 * 200 + 3 * 100 * 4 + 50


def test_checkpointing_keeps_one_state_a_layer_and_computes_one_layer_anew() -> None:
    less = dataclasses.replace(SIZE, checkpointing=True)
    assert activation_bytes(less, 3, 10) == 3 * 10 * (2 * 8 * 4) + 3 * 10 * 200 / 2
    assert activation_bytes(less, 3, 10) < activation_bytes(SIZE, 3, 10)


def test_logits_of_a_chunk_exist_four_times() -> None:
    assert logits_bytes(SIZE, 10) == 4 * 10 * 100 * 4
    assert logits_bytes(SIZE, 5_000) == 4 * 1_024 * 100 * 4
    half = dataclasses.replace(SIZE, number_bytes=2)  # projected in bfloat16, then in float32
    assert logits_bytes(half, 10) == 4 * 10 * 100 * 4 + 10 * 100 * 2


def test_the_cache_holds_keys_and_values_of_every_layer_and_one_more() -> None:
    assert cache_bytes(SIZE, 5, 7) == 5 * 7 * (2 + 1) * 16 * 4


def test_bytes_are_written_in_gibibytes_or_mebibytes() -> None:
    assert gigabytes(3 * 2**30) == "3.00 GiB"
    assert gigabytes(5 * 2**20) == "5.0 MiB"
