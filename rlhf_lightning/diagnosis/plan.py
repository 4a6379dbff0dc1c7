"""The plan of a run that is not composed yet."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import adapter_size, load_scalar_model, size_of_factory
from rlhf_lightning.modules.run_plan import frozen, optimizer_kind
from rlhf_lightning.planning import MemoryPlan, ModelSize, PlannedRun, memory_of

STAGES = ("sft", "reward", "ppo")


def run_of(
    policy: Any,
    *,
    stage: Literal["sft", "reward", "ppo"] = "ppo",
    roles: Literal["separate", "shared"] = "separate",
    reward: str | None = None,
    optimizer: Any = None,
    **numbers: Any,
) -> PlannedRun | None:
    """A stage with the sizes of its models; ``None`` if what makes the policy is not known.

    Args:
        policy: a ``functools.partial`` of :func:`~rlhf_lightning.models.load_causal_lm`.
        stage: ``sft``, ``reward`` or ``ppo``.
        roles: of PPO.
        reward: folder of the reward model, which the value model starts from; ``None``: one like the policy.
        optimizer: makes the optimizer.
        numbers: batch sizes and lengths of :class:`~rlhf_lightning.planning.PlannedRun`.

    Raises:
        UserError: an unknown stage, unknown roles, shared roles without an adapter, a number below 1.
    """
    if stage not in STAGES:
        raise UserError(f"run.stage={stage!r} is none of {', '.join(STAGES)}")
    if roles not in ("separate", "shared"):
        raise UserError(f"run.roles={roles!r} is neither 'separate' nor 'shared'")
    size = size_of_factory(policy)
    if size is None:
        return None
    memory: dict[str, ModelSize] = {"policy": size}
    read = memory
    shared = roles == "shared" and stage == "ppo"
    if shared:
        if not policy.keywords.get("lora"):
            raise UserError("run.roles=shared trains an adapter on a frozen base: set model/lora=default")
        one = adapter_size(size)
        memory |= {"value": one, "reward": one}
        # Whoever gathers the base gathers all adapters on it.
        weights, block = size.weight_bytes + 2 * one.weight_bytes, size.block_bytes + 2 * one.block_bytes
        gathered = dataclasses.replace(size, weight_bytes=weights, block_bytes=block)
        read = dict.fromkeys(("policy", "reference", "value", "reward"), gathered)
    elif stage != "sft":
        settings = policy.keywords | ({} if reward is None else {"name": reward})
        scalar = size_of_factory(functools.partial(load_scalar_model, **settings))
        assert scalar is not None  # it is a partial of load_scalar_model
        if stage == "reward":
            memory = read = {"reward": scalar}
        else:
            memory |= {"reference": frozen(size), "value": scalar, "reward": frozen(scalar)}
    return PlannedRun(stage=stage, roles=memory, read=read, optimizer=optimizer_kind(optimizer), **numbers)


def plan_of(policy: Any, **settings: Any) -> MemoryPlan | None:
    """The memory of a stage on one device; ``None`` if what makes the policy is not known. Arguments and errors are
    those of :func:`run_of`."""
    run = run_of(policy, **settings)
    return None if run is None else memory_of(run)
