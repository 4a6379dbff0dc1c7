"""Sharded weights: what a process holds, and passes that no process leaves early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

Trained = Callable[..., Any]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_responses_that_end_at_different_times_do_not_hang(
    trained: Trained, strategy: str, causal_lm_folders: dict[str, Any]
) -> None:
    """The launch as a whole has a limit, too; a process that waited for ever would break it."""
    found = [trained(f"staggered-{strategy}", rank) for rank in (0, 1)]
    assert all(one["seconds"] < 60 for one in found)
    short, long = (one["generation"] for one in found)
    assert short[1].tolist() == [1]
    assert short[2].tolist() == [True]
    assert long[1].tolist() == [40, 40, 40]
    assert long[2].tolist() == [False, False, False]
    plain = AutoModelForCausalLM.from_pretrained(causal_lm_folders["llama"])
    prompt = torch.tensor([[5, 6, 7, 8]])
    for _ in range(40):
        prompt = torch.cat([prompt, plain(prompt).logits[:, -1:].argmax(-1)], 1)
    assert long[0][0].tolist() == prompt[0, 4:].tolist()
    assert short[0][0].tolist() == prompt[0, 4:5].tolist()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_two_holds_half(trained: Trained, rank: int) -> None:
    """Parameters, gradients and optimizer of PPO, counted in bytes at an optimizer step; a little is padding."""
    whole, half = trained("memory-one"), trained("memory-fsdp2", rank)
    for kind in ("parameters", "gradients", "optimizer"):
        assert 0 < half[kind] <= 0.55 * whole[kind], kind


def test_weights_are_read_once_for_all_processes(trained: Trained) -> None:
    """Policy and value model; the reference is a copy."""
    assert trained("memory-one")["reads"] == 2
    assert [trained("memory-fsdp2", rank)["reads"] for rank in (0, 1)] == [2, 0]
