"""Memory of one device where several train together.

Letters: n processes, W and G bytes of a role's weights and gradients, u the weights of its largest block, r those
outside its blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_lightning.planning.memory import gradient_bytes
from rlhf_lightning.planning.model_size import ModelSize
from rlhf_lightning.planning.run import PlannedRun
from rlhf_lightning.planning.stages import MemoryPlan, plan_ppo, plan_reward, plan_sft

Strategy = Literal["auto", "ddp", "fsdp2"]


def sharded(size: ModelSize, processes: int) -> ModelSize:
    """A model as one of n processes holds it under FSDP2: ``1/n`` of weights and of what trains. The gradient that
    exists whole is that of a block and of what stands outside the blocks, ``(u + r) · G / W``."""
    share = size.trained_bytes / size.weight_bytes if size.weight_bytes else 0.0
    return dataclasses.replace(
        size,
        weight_bytes=size.weight_bytes / processes,
        trained=size.trained // processes,
        trained_bytes=size.trained_bytes / processes,
        matrices=size.matrices // processes,
        largest_bytes=(size.block_bytes + size.rest_bytes) * share,
    )


def gathered_bytes(size: ModelSize) -> float:
    """Weights that exist whole during a pass under FSDP2: ``r + 2u``, the block that is read and the one that is being
    gathered for it to be read next."""
    return size.rest_bytes + 2 * size.block_bytes


def memory_of(run: PlannedRun, strategy: Strategy = "auto", processes: int = 1) -> MemoryPlan:
    """The memory of one of n devices.

    - A replica (``auto``, ``ddp``) holds what one device holds, for ``1/n`` of the episodes, and ``G`` once more in
      the buckets that ``DistributedDataParallel`` makes when it wraps a model, which are counted as gradients.
      Messages of gradients, of up to 2²⁵ numbers, are of passing size beside them and left out.
    - A shard (``fsdp2``) holds ``1/n`` of each role's weights, gradients and optimizer (:func:`sharded`), and in each
      phase :func:`gathered_bytes` of the role that is read.

    A process reads ``min(micro_batch_size, minibatch_size / n)`` rows at a time.
    """
    cut = strategy == "fsdp2" and processes > 1
    sizes = {role: sharded(size, processes) if cut else size for role, size in run.roles.items()}
    own = -(-run.minibatch_size // processes)
    micro = min(run.micro_batch_size, own)
    if run.stage == "ppo":
        plan = plan_ppo(
            sizes["policy"],
            reference=sizes.get("reference"),
            value=sizes.get("value"),
            reward=sizes.get("reward"),
            rollout_batch_size=-(-run.rollout_batch_size // processes),
            micro_batch_size=micro,
            prompt_tokens=run.prompt_tokens,
            new_tokens=run.new_tokens,
            text_rows=-(-run.text_rows // processes),
            text_tokens=run.text_block,
            reward_batch_size=run.reward_batch_size,
            optimizer=run.optimizer,
        )
    elif run.stage == "reward":
        plan = plan_reward(sizes["reward"], rows=micro * run.completions, tokens=run.tokens, optimizer=run.optimizer)
    else:
        plan = plan_sft(sizes["policy"], rows=micro, tokens=run.tokens, optimizer=run.optimizer)
    if cut:
        return _with_gathered(plan, run)
    return _with_buckets(plan, run) if processes > 1 else plan


def _with_gathered(plan: MemoryPlan, run: PlannedRun) -> MemoryPlan:
    gathered = {role: gathered_bytes(size) for role, size in run.read.items()}
    of_phase = {
        "rollout": ["policy"],
        "score": ["reward"],
        "evaluate": ["policy", "reference", "value"],
        "update": [role for role in run.roles if run.trains(role)],
    }
    phases = {
        phase: held + max((gathered[role] for role in of_phase[phase] if role in gathered), default=0.0)
        for phase, held in plan.phases.items()
    }
    return dataclasses.replace(plan, phases=phases)


def _with_buckets(plan: MemoryPlan, run: PlannedRun) -> MemoryPlan:
    buckets = {role: gradient_bytes(size) if run.trains(role) else 0.0 for role, size in run.roles.items()}
    roles = tuple(dataclasses.replace(one, gradients=one.gradients + buckets[one.role]) for one in plan.roles)
    more = sum(buckets.values())
    return dataclasses.replace(plan, roles=roles, phases={phase: held + more for phase, held in plan.phases.items()})
