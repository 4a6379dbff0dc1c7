"""Two processes compute what one does: losses, metrics and updated weights, replicated and sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

WHOLE, ADAPTED = (
    ("sft", "packed", "reward", "ppo"),
    ("sft-lora", "reward-lora", "ppo-lora", "ppo-shared"),
)
RUNS = [(stage, strategy) for strategy in ("ddp", "fsdp2") for stage in WHOLE] + [(stage, "fsdp2") for stage in ADAPTED]


@pytest.mark.parametrize(("stage", "strategy"), RUNS)
def test_losses_metrics_and_weights_are_those_of_one_process(
    trained: Callable[..., Any], stage: str, strategy: str
) -> None:
    one, two = trained(f"{stage}-one"), trained(f"{stage}-{strategy}")
    assert one["begin"].keys() == two["begin"].keys()
    assert all(torch.equal(one["begin"][name], two["begin"][name]) for name in one["begin"])
    assert len(one["steps"]) == len(two["steps"]) == 4  # three steps and the end
    for mine, other in zip(one["steps"], two["steps"], strict=True):
        assert mine == pytest.approx(other, abs=1e-5, rel=1e-5)
    weights = [name for name in one["begin"] if "/" not in name]
    moved = [float((one["end"][name] - one["begin"][name]).abs().max()) for name in weights]
    assert max(moved) > 1e-4, "a run that moved nothing shows nothing"
    for name, weight in one["end"].items():
        torch.testing.assert_close(weight, two["end"][name], atol=1e-5, rtol=0.0, msg=name)


@pytest.mark.parametrize(("stage", "strategy"), RUNS)
def test_both_processes_end_with_the_same(trained: Callable[..., Any], stage: str, strategy: str) -> None:
    first, second = (trained(f"{stage}-{strategy}", rank) for rank in (0, 1))
    assert first["steps"] == second["steps"]
    assert all(torch.equal(first["end"][name], second["end"][name]) for name in first["end"])


@pytest.mark.parametrize(("stage", "strategy"), [run for run in RUNS if run[0].startswith("ppo")])
def test_responses_are_those_of_one_process(trained: Callable[..., Any], stage: str, strategy: str) -> None:
    one, two = trained(f"{stage}-one"), trained(f"{stage}-{strategy}")
    assert one["prompts"] == two["prompts"]
    assert one["responses"] == two["responses"]
    assert len({response for step in one["responses"] for response in step}) > 6


@pytest.mark.parametrize(("stage", "strategy"), [run for run in RUNS if run[0].startswith("reward")])
def test_the_bias_of_the_reward_is_that_of_one_process(trained: Callable[..., Any], stage: str, strategy: str) -> None:
    one, two = trained(f"{stage}-one"), trained(f"{stage}-{strategy}")
    torch.testing.assert_close(one["head"], two["head"], atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("stage", ADAPTED)
def test_only_adapters_and_heads_learn(trained: Callable[..., Any], stage: str) -> None:
    found = trained(f"{stage}-fsdp2")
    weights = [name for name in found["begin"] if "/" not in name]
    moved = {name for name in weights if not torch.equal(found["begin"][name], found["end"][name])}
    learned = {name for name in weights if "lora_" in name or "score." in name or name.startswith("value.head.")}
    frozen = {name for name in weights if name.startswith("reference.") or ".reward." in name}
    assert moved == learned - frozen
    assert len(moved) < len(weights)
