"""Plans for several processes, by hand, on models of round numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rlhf_lightning.planning import (
    ModelSize,
    Passes,
    PlannedRun,
    all_gather_bytes,
    all_reduce_bytes,
    backward_operations,
    bytes_moved,
    cheapest,
    forward_operations,
    gathered_bytes,
    iteration_passes,
    iteration_seconds,
    memory_of,
    operations,
    options_of,
    parse_bytes,
    sharded,
)

# Two blocks of 300 numbers and 400 beside them, in float32.
SIZE = ModelSize(
    parameters=1_000,
    weight_bytes=4_000,
    trained=1_000,
    trained_bytes=4_000,
    matrices=600,
    largest_bytes=1_000,
    layers=2,
    width=8,
    vocabulary=100,
    cache_width=16,
    kept_bytes=200,
    block_bytes=1_200,
    rest_bytes=1_600,
)
FROZEN = dataclasses.replace(SIZE, trained=0, trained_bytes=0.0, matrices=0, largest_bytes=0.0)


def sft(**numbers: Any) -> PlannedRun:
    settings: dict[str, Any] = {"minibatch_size": 8, "micro_batch_size": 2, "prompt_tokens": 6, "new_tokens": 4}
    roles = {"policy": SIZE}
    return PlannedRun(stage="sft", roles=roles, read=roles, **settings | numbers)


def ppo(**numbers: Any) -> PlannedRun:
    """Two optimizer steps of 8 episodes, each 6 + 4 tokens, and 16 rows of 5 tokens of text."""
    roles = {"policy": SIZE, "reference": FROZEN, "value": SIZE, "reward": FROZEN}
    settings: dict[str, Any] = {"rollout_batch_size": 16, "minibatch_size": 8, "micro_batch_size": 2}
    settings |= {"prompt_tokens": 6, "new_tokens": 4, "ptx_ratio": 2, "text_block": 5, "reward_batch_size": 3}
    return PlannedRun(stage="ppo", roles=roles, read=roles, **settings | numbers)


def test_a_shard_is_a_part_of_what_lasts_and_one_unit_of_gradients() -> None:
    one = sharded(SIZE, 4)
    assert (one.weight_bytes, one.trained_bytes, one.trained, one.matrices) == (1_000, 1_000, 250, 150)
    assert one.largest_bytes == 1_200 + 1_600  # a block and what stands outside the blocks, all of which trains
    assert one.kept_bytes == SIZE.kept_bytes
    assert sharded(FROZEN, 4).largest_bytes == 0
    assert gathered_bytes(SIZE) == 1_600 + 2 * 1_200


def test_one_device_holds_what_the_stage_needs() -> None:
    # Weights, gradients, two moments; activations of 2 rows of 10 tokens; four logits of each; one gradient more.
    expected = 4_000 * 4 + 2 * 10 * 200 + 4 * 20 * 100 * 4 + 1_000
    assert memory_of(sft()).peak == expected
    assert memory_of(sft(), "fsdp2", 1).peak == expected


def test_a_replica_holds_its_gradients_twice() -> None:
    plan = memory_of(sft(), "ddp", 4)
    assert plan.roles[0].gradients == 8_000
    assert plan.peak == 4_000 * 5 + 2 * 10 * 200 + 4 * 20 * 100 * 4 + 1_000


def test_a_shard_holds_its_part_and_what_is_gathered() -> None:
    plan = memory_of(sft(), "fsdp2", 4)
    (role,) = plan.roles
    assert (role.weights, role.gradients, role.optimizer) == (1_000, 1_000, 2_000)
    assert plan.peak == 1_000 * 4 + 2 * 10 * 200 + 4 * 20 * 100 * 4 + 2_800 + 4_000


def test_a_process_has_its_share_of_the_rows() -> None:
    assert memory_of(sft(), "ddp", 8).roles[0].activations == 10 * 200 + 4 * 10 * 100 * 4  # one row
    assert memory_of(ppo(), "ddp", 8).roles[0].cache == 2 * 10 * (2 + 1) * 16 * 4  # two episodes


@pytest.mark.parametrize(("phase", "gathered"), [("rollout", 4_000), ("score", 4_000), ("update", 4_000)])
def test_each_phase_gathers_the_role_that_it_reads(phase: str, gathered: float) -> None:
    run = ppo()
    kept = {role: dataclasses.replace(size, block_bytes=0.0, rest_bytes=0.0) for role, size in run.roles.items()}
    without = memory_of(dataclasses.replace(run, roles=kept, read=kept), "fsdp2", 4).phases[phase]
    # The update has the gradient of a unit beside it, too.
    assert memory_of(run, "fsdp2", 4).phases[phase] - without == gathered + (2_800 if phase == "update" else 0)


def test_a_role_that_is_an_adapter_gathers_the_base_that_it_reads() -> None:
    run = ppo()
    adapter = dataclasses.replace(SIZE, weight_bytes=40, trained_bytes=40, trained=10, block_bytes=20, rest_bytes=0.0)
    roles = {"policy": SIZE, "value": adapter, "reward": adapter}
    read = dict.fromkeys(("policy", "reference", "value", "reward"), SIZE)
    plan = memory_of(dataclasses.replace(run, roles=roles, read=read), "fsdp2", 4)
    alone = memory_of(dataclasses.replace(run, roles=roles, read=roles), "fsdp2", 4)
    assert plan.phases["score"] - alone.phases["score"] == 4_000 - 2 * 20
    assert plan.phases["update"] == alone.phases["update"]  # the policy gathers as much


def test_passes_of_an_iteration() -> None:
    assert list(iteration_passes(ppo(), 2)) == [
        Passes("rollout", "policy", 4, 8 * 9),  # the prompt and three of four tokens
        Passes("score", "reward", 3, 8 * 10),  # 3, 3 and 2 of 8 episodes
        Passes("evaluate", "policy", 4, 8 * 10),
        Passes("evaluate", "reference", 4, 8 * 10),
        Passes("evaluate", "value", 4, 8 * 10),
        Passes("update", "policy", 2 * 2, 2 * 4 * 10, backward=True),
        Passes("update", "value", 2 * 2, 2 * 4 * 10, backward=True),
        Passes("update", "policy", 2 * 4, 2 * 8 * 5, backward=True),
    ]
    assert list(iteration_passes(sft(), 2)) == [Passes("update", "policy", 2, 4 * 10, backward=True)]


def test_a_ring_sends_what_others_lack() -> None:
    assert all_reduce_bytes(400, 4) == 600
    assert all_gather_bytes(400, 4) == 300
    assert all_reduce_bytes(400, 1) == all_gather_bytes(400, 1) == 0


def test_replicas_send_gradients_once_a_step() -> None:
    # Two steps of two roles of 4,000 bytes, 2 · 3/4 of each; frozen roles send nothing.
    assert bytes_moved(ppo(), "ddp", 4) == {"update": 2 * 1.5 * 8_000}
    assert bytes_moved(ppo(epochs=3), "ddp", 4) == {"update": 6 * 1.5 * 8_000}
    assert bytes_moved(ppo(), "auto", 1) == {"update": 0}


def test_shards_send_weights_in_every_pass() -> None:
    half = 0.5 * 4_000
    assert bytes_moved(ppo(), "fsdp2", 2) == {
        "rollout": 4 * half,
        "score": 3 * half,
        "evaluate": 12 * half,
        "update": (4 + 4 + 8) * 3 * half,  # weights twice and gradients
    }


def test_two_operations_a_weight_forward_and_four_backward() -> None:
    assert forward_operations(SIZE, 7) == 14_000
    assert backward_operations(SIZE, 7) == 28_000
    assert backward_operations(FROZEN, 7) == 14_000  # through the weights, not into them
    assert backward_operations(dataclasses.replace(SIZE, checkpointing=True), 7) == 42_000
    # Rollout, score and three evaluations of 72 and 80 tokens; updates of 80 and 80, and 80 of text.
    assert operations(ppo(), 2) == 2_000 * (72 + 4 * 80) + 6_000 * (3 * 80)


def test_seconds_are_operations_and_bytes_over_their_rates() -> None:
    arithmetic, messages = iteration_seconds(ppo(), "ddp", 4, flops=1_000, bandwidth=2_000)
    assert arithmetic == (2_000 * (36 + 4 * 40) + 6_000 * 3 * 40) / 1_000
    assert messages == 24_000 / 2_000
    with pytest.raises(ValueError, match="bandwidth=0"):
        iteration_seconds(ppo(), "ddp", 4, flops=1.0, bandwidth=0)


def test_the_cheapest_that_fits_sends_least() -> None:
    replica, shard = (memory_of(ppo(), strategy, 4).peak for strategy in ("ddp", "fsdp2"))
    assert shard < replica

    def best(memory: float, refused: dict[str, str] | None = None) -> str | None:
        found = cheapest(options_of(ppo(), processes=4, device_memory=memory, refused=refused or {}), 4)
        return found and found.strategy

    assert best(replica) == "ddp"
    assert best(replica - 1) == best(shard) == "fsdp2"
    assert best(shard - 1) is None
    assert best(replica - 1, {"fsdp2": "no"}) is None
    assert best(replica, {"ddp": "no"}) == "fsdp2"


def test_more_devices_are_shown_while_a_minibatch_can_be_shared() -> None:
    options = options_of(ppo(), processes=2, device_memory=1.0, refused={})
    shown = [(one.strategy, one.processes) for one in options]
    assert shown == [("auto", 1), ("ddp", 2), ("fsdp2", 2), ("fsdp2", 4), ("fsdp2", 8)]
    with pytest.raises(ValueError, match=r"minibatch_size=8 cannot be shared by 3 devices"):
        options_of(ppo(), processes=3, device_memory=1.0, refused={})
    with pytest.raises(ValueError, match=r"rollout_batch_size=12 is not divisible by run\.minibatch_size=8"):
        options_of(ppo(rollout_batch_size=12), processes=2, device_memory=1.0, refused={})
    with pytest.raises(ValueError, match=r"run\.epochs=0"):
        ppo(epochs=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80GB", 80e9), ("80 GiB", 80 * 2**30), ("1.5TB", 1.5e12), (4096, 4096), (5e10, 5e10), ("2e3MB", 2e9), ("7B", 7)],
)
def test_sizes_are_read(text: object, expected: float) -> None:
    assert parse_bytes(text, key="device_memory") == expected


@pytest.mark.parametrize("text", ["80 apples", "GB", "-1GB", "0", "1.2.3GB", "", None, "80gb2"])
def test_what_is_no_size_is_named(text: object) -> None:
    with pytest.raises(ValueError, match=r"device_memory=.* is no size; write it as device_memory=80GB"):
        parse_bytes(text, key="device_memory")
