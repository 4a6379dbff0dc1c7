"""Sharded weights: what a process holds, and passes that no process leaves early."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_lightning.diagnosis import run_of
from rlhf_lightning.models import Lora, load_causal_lm
from rlhf_lightning.planning import PlannedRun, gradient_bytes, iteration_passes, memory_of

Trained = Callable[..., Any]


@pytest.fixture(params=["fsdp2", "shared"])
def planned(request: pytest.FixtureRequest, causal_lm_folders: dict[str, Any]) -> tuple[str, PlannedRun]:
    """The runs of ``memory`` and ``traffic``: with models of their own, of which the reward is none, and with adapters
    on one base."""
    numbers = {"rollout_batch_size": 8, "minibatch_size": 4, "micro_batch_size": 1, "epochs": 2}
    numbers |= {"prompt_tokens": 10, "new_tokens": 6, "ptx_ratio": 1, "text_block": 12}
    name = str(causal_lm_folders["gpt2"])
    if request.param == "shared":
        lora = Lora(rank=4, alpha=8.0)
        run = run_of(functools.partial(load_causal_lm, name=name, lora=lora), roles="shared", **numbers)
        assert run is not None
        return request.param, run
    run = run_of(functools.partial(load_causal_lm, name=name), **numbers)
    assert run is not None
    roles = {role: size for role, size in run.roles.items() if role != "reward"}
    return request.param, PlannedRun(stage="ppo", roles=roles, read=roles, **numbers)


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


def test_the_reward_model_is_read_once_too(trained: Trained) -> None:
    one, two = trained("scored-one"), [trained("scored-fsdp2", rank) for rank in (0, 1)]
    assert one["reads"] == 3
    assert [found["reads"] for found in two] == [3, 0]
    assert one["reward"] == two[0]["reward"] == two[1]["reward"]
    for mine, other in zip(one["steps"], two[0]["steps"], strict=True):
        assert mine == pytest.approx(other, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_plan_of_two_processes_is_what_they_hold(
    trained: Trained, planned: tuple[str, PlannedRun], rank: int
) -> None:
    name, run = planned
    held, roles = trained(f"memory-{name}", rank), memory_of(run, "fsdp2", 2).roles
    for kind, number in (("parameters", "weights"), ("gradients", "gradients"), ("optimizer", "optimizer")):
        assert sum(getattr(role, number) for role in roles) == pytest.approx(held[kind], rel=0.15), kind


@pytest.mark.parametrize("rank", [0, 1])
def test_the_plan_counts_what_two_processes_send(trained: Trained, planned: tuple[str, PlannedRun], rank: int) -> None:
    """Every gathering of weights and scattering of gradients in an iteration of PPO-ptx; a little is padding."""
    name, run = planned
    gathered = scattered = 0.0
    for passes in iteration_passes(run, 2):
        size = run.read[passes.role]
        gathered += passes.number * size.weight_bytes * (1 + passes.backward)
        scattered += passes.number * gradient_bytes(size) * passes.backward
    sent = trained(f"traffic-{name}", rank)
    assert gathered == pytest.approx(sent["gathered"], rel=0.01)
    assert scattered == pytest.approx(sent["scattered"], rel=0.01)
