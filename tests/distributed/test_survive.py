"""Runs of several processes that stop go on as if they had not, on as many processes or on others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Trained = Callable[..., Any]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-shared"])
def test_a_run_that_crashed_and_went_on_equals_one_that_did_not(trained: Trained, strategy: str, rank: int) -> None:
    straight, resumed = trained(f"straight-{strategy}", rank), trained(f"resumed-{strategy}", rank)
    assert len(straight["responses"]) == 4
    assert len(resumed["responses"]) == 2
    assert resumed["responses"] == straight["responses"][2:]
    assert resumed["steps"] == straight["steps"][2:]
    assert resumed["kl_coef"] == straight["kl_coef"]
    assert same(resumed["last"], straight["last"])  # weights and moments
    assert same(resumed["end"], straight["end"])  # with the average of the policy in its place


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-shared"])
def test_two_processes_go_on_from_the_checkpoint_of_one(trained: Trained, strategy: str) -> None:
    name = {"ddp": "auto"}.get(strategy, strategy)
    saved, resumed = trained(f"saved-by-one-{name}"), trained(f"one-to-two-{strategy}")
    assert same(saved["last"], resumed["begin"])
    assert len(resumed["responses"]) == 2
    assert resumed["prompts"] == trained(f"straight-{strategy}")["prompts"][2:]  # the order of data is the same


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-shared"])
def test_one_process_goes_on_from_the_checkpoint_of_two(trained: Trained, strategy: str) -> None:
    name = {"ddp": "auto"}.get(strategy, strategy)
    saved, resumed = trained(f"resumed-{strategy}"), trained(f"two-to-one-{name}")
    assert same(saved["last"], resumed["begin"])
    assert len(resumed["responses"]) == 1
    assert not same(resumed["begin"], resumed["last"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-shared"])
def test_ranks_sample_from_streams_of_their_own(trained: Trained, strategy: str) -> None:
    first, second = (trained(f"straight-{strategy}", rank) for rank in (0, 1))
    assert len(first["responses"][0]) == 8  # of both ranks
    assert first["responses"] == second["responses"]
    assert not torch.equal(first["stream"], second["stream"])
    assert torch.equal(second["stream"], trained(f"resumed-{strategy}", 1)["stream"])


def test_both_strategies_sample_the_same(trained: Trained) -> None:
    assert trained("straight-ddp")["responses"][0] == trained("straight-fsdp2")["responses"][0]
